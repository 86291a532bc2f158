"""Where the texts and labels of sparse probing come from: files, the hub, a package, the grammar.

A label is whatever a column holds; which of them is the positive one is said by the task, or is
the last of two in order. The package sae-probes (Kantamneni et al. 2025, arXiv 2502.16681) is
read as a folder of compressed tables and never imported: what it depends on is not needed here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from sae_cli.errors import DataError
from sae_cli.lm import sources
from sae_cli.lm.hub import first_line
from sae_cli.lm.tiny.dice import Dice
from sae_cli.lm.tiny.grammar import TRAIN_SEED, prompts, render
from sae_cli.lm.tiny.page import Document
from sae_cli.lm.tiny.prompts import Split
from sae_cli.lm.tiny.prose import prose, quote
from sae_cli.spec.stages import Source
from sae_cli.spec.studies import SAE_PROBES_HINT, SAE_PROBES_MISSING, ProbingTask

MOST_TINY = 1200
"""Texts of a built-in data set."""
_TOPICS = ("kitchen", "music", "sea")
_ALL = "all"


@dataclass(frozen=True)
class Labelled:
    """A data set: texts, and for each whether it is positive."""

    name: str
    texts: tuple[str, ...]
    positive: tuple[bool, ...]
    origin: str
    """What a person finds it by."""
    labels: str
    """What positive means."""
    rendered: bool = False
    """Whether texts are already as the model reads them, chat markers included."""


def data_sets(tasks: Sequence[ProbingTask], rows: int, seed: int) -> Iterator[Labelled]:
    """Every data set that `tasks` name, each read when it is asked for; at most `rows` rows.

    Raises DataError: not there, unreadable, no such column, more than two labels and none named
    positive, or two data sets of one name.
    """
    met: dict[str, str] = {}
    for task in tasks:
        for found in _of_task(task, rows, seed):
            if found.name in met:
                raise DataError(
                    f"two data sets to probe are called {found.name}: {met[found.name]} and "
                    f"{found.origin}",
                    hint="give one of them a `name:`.",
                )
            met[found.name] = found.origin
            yield found


def _of_task(task: ProbingTask, rows: int, seed: int) -> Iterator[Labelled]:
    if task.builtin is not None:
        yield from _tiny(seed)
    elif task.sae_probes is not None:
        yield from _sae_probes(task, rows)
    else:
        yield _columns(task, rows)


def _columns(task: ProbingTask, rows: int) -> Labelled:
    """The two columns of a local or hub data set."""
    source = Source(
        path=task.path, hf=task.hf, config=task.config, split=task.split, revision=task.revision
    )
    origin = sources.source_name(source)
    if task.path is not None and Path(task.path).suffix == ".txt":
        raise DataError(
            f"{origin} is plain text and holds no labels",
            hint="give a .jsonl, .json, .csv or .parquet file with a column of texts and a column "
            "of labels.",
        )
    stem = task.config or task.hf if task.hf is not None else Path(str(task.path)).stem
    pairs = zip(sources.column(source, task.text), _labels(source, task.label), strict=True)
    if task.path is not None:  # where a file lay is no part of what was found
        origin = "local files" if task.digest is None else f"local files, sha256 {task.digest}"
    return _labelled(task, str(stem), origin, islice(pairs, rows))


def _labels(source: Source, column: str) -> Iterator[tuple[str, Any]]:
    try:
        yield from sources.column(source, column)
    except DataError as error:
        if error.hint is None or "`text: <column>`" not in error.hint:
            raise
        raise DataError(error.what, hint="set `label: <column>` in that task.") from error


Row = tuple[tuple[str, Any], tuple[str, Any]]


def _labelled(task: ProbingTask, stem: str, origin: str, pairs: Iterable[Row]) -> Labelled:
    texts, labels = [], []
    for (where, text), (_, label) in pairs:
        if not isinstance(text, str):
            raise DataError(f"{where}: column {task.text!r} is {_kind(text)}, and text is needed")
        if not isinstance(label, bool | int | float | str):
            raise DataError(
                f"{where}: column {task.label!r} is {_kind(label)}, and a label is needed",
                hint="labels are truth values, numbers or words.",
            )
        texts.append(text.encode("utf-8", "replace").decode("utf-8"))  # no lone surrogates
        labels.append(plain(label))
    there = sorted({*labels})
    if task.positive is None and len(there) > 2:
        raise DataError(
            f"{origin}: column {task.label!r} holds {len(there)} labels ({_listed(there)})",
            hint="set `positive: <label>` in that task: it is held against all others.",
        )
    wanted = plain(task.positive) if task.positive is not None else (there or [""])[-1]
    if wanted not in there and task.positive is not None:
        raise DataError(
            f"{origin}: no row of column {task.label!r} is {wanted!r}; there are {_listed(there)}",
            hint="set `positive:` in that task to one of them.",
        )
    name = task.name or re.sub(r"[^\w.-]+", "_", stem)
    positive = tuple(label == wanted for label in labels)
    return Labelled(name, tuple(texts), positive, origin, f"{task.label} is {wanted}")


def plain(label: bool | int | float | str) -> str:
    """A label as a word: 1, 1.0 and "1" are one, and so are true, True and "true"."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    said = str(label).strip()
    return said.lower() if said in ("True", "False", "TRUE", "FALSE") else said


def _kind(value: Any) -> str:
    return "empty (null)" if value is None else f"of type {type(value).__name__}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _sae_probes(task: ProbingTask, rows: int) -> Iterator[Labelled]:
    """One of the binary data sets of the package, or all of them in its own order."""
    found = importlib.util.find_spec("sae_probes")
    places = [] if found is None else list(found.submodule_search_locations or ())
    if not places:
        raise DataError(SAE_PROBES_MISSING, hint=SAE_PROBES_HINT)
    root = Path(places[0]) / "data"
    listed = _table(
        root / "probing_datasets_MASTER.csv.zst", ("Dataset Tag", "Dataset save name", "Data type")
    )
    files = {
        str(tag): root / f"{saved}.zst"
        for tag, saved, kind in listed
        if kind == "Binary Classification"
    }
    numbered = {file.name.removesuffix(".csv.zst"): tag for tag, file in files.items()}
    wanted = str(task.sae_probes)
    tags = list(files) if wanted == _ALL else [numbered.get(wanted, wanted)]
    if tags[0] not in files:
        raise DataError(
            f"sae-probes has no binary data set {wanted!r}; it has {len(files)}: "
            f"{_listed(sorted(files))}",
            hint="name one of them, or `all`.",
        )
    name = task.name if wanted != _ALL else None
    here = task.model_copy(update={"text": "prompt", "label": "target", "name": name})
    for tag in tags:
        origin = f"sae-probes {_version()} {tag}"
        table = _table(files[tag], (here.text, here.label))
        pairs = (
            ((f"{origin} row {n}", text), (f"{origin} row {n}", label))
            for n, (text, label) in enumerate(table[:rows], 1)
        )
        yield _labelled(here, tag, origin, pairs)


def _version() -> str:
    try:
        return importlib.metadata.version("sae-probes")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _table(path: Path, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of the text columns of a compressed .csv."""
    csv = pyarrow.csv
    only = csv.ConvertOptions(
        include_columns=list(columns), column_types={c: pa.string() for c in columns}
    )
    try:
        with pa.input_stream(str(path), compression="zstd") as stream:
            table = csv.read_csv(
                stream,
                read_options=csv.ReadOptions(block_size=32 * 2**20),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=only,
            )
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} can't be read: {first_line(error)}",
            hint=f"sae-probes 0.4 is known to be readable. {SAE_PROBES_HINT}",
        ) from error
    return list(zip(*(table.column(c).to_pylist() for c in columns), strict=True))


def _tiny(seed: int) -> Iterator[Labelled]:
    """Data sets whose labels the grammar knows, of text that no model was trained on.

    Requests: harmful or not, a combination of two words. Topics: documents of one topic against
    those of others. Speech: with quotation marks or without. Number: of whom a document is about.
    """
    splits: tuple[Split, ...] = ("train", "val", "test")
    asked = [(render(p.messages), p.harmful) for s in splits for h in (True, False)
             for p in prompts(s, h)]  # fmt: skip
    yield _made("harmful", "the request is harmful", asked)
    told = [_drawn(prose, seed, i) for i in range(6 * MOST_TINY)]
    for topic in _TOPICS:
        about = [(d.text, any(w.topic == topic for w in d.labels)) for d in told]
        yield _made(f"topic_{topic}", f"the document is about the {topic}", about)
    few = MOST_TINY
    said = [*told[:few], *(_drawn(quote, seed, i) for i in range(few))]
    spoken = [(d.text, any(w.quoted for w in d.labels)) for d in said]
    yield _made("quote", "somebody is quoted", spoken)
    numbers = [(d.text, next(w.number for w in d.labels if w.role == "subject") == "pl")
               for d in told[:few]]  # fmt: skip
    yield _made("plural", "the document is about several people", numbers)


def _drawn(kind: Any, seed: int, i: int) -> Document:
    document: Document = kind(Dice(f"probing {TRAIN_SEED + 1 + seed} {i}"))
    return document


def _made(name: str, labels: str, pairs: Sequence[tuple[str, bool]]) -> Labelled:
    """`MOST_TINY` of them at most, half of them positive where there are so many."""
    half = MOST_TINY // 2
    kept = [[p for p in pairs if p[1] is kind][:half] for kind in (True, False)]
    texts, positive = zip(*kept[0], *kept[1], strict=True)
    return Labelled(name, texts, positive, f"builtin tiny {name}", labels, rendered=True)
