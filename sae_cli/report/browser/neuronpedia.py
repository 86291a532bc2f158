"""The same dashboards in the files that Neuronpedia imports.

    exports/<model>/<layer>-<set>/
      release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl      one line each
      features/batch-0.jsonl.gz      a line a feature: logits, histogram, density, neighbours
      activations/batch-0.jsonl.gz   a line an example: tokens, values, where it peaks, its group

256 features a file. Names of tables and fields follow the format; who uploads is not known here, so
`creatorId` and the like are left out. The strongest examples have `binMin` and `binMax` -1, as the
format has it; those of a quantile group have the group's range of peaks.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae_cli.report.browser.texts import Words
from sae_cli.store.atomic import explained, write_bytes
from sae_cli.store.dashboards import NONE, Corpus, Dashboard, Ranked

FEATURES = 256
TOP_BIN = -1.0
"""`binMin` and `binMax` of the strongest examples."""


class Export:
    """Writes SAEs below a folder, each file whole."""

    def __init__(self, root: Path) -> None:
        self._root, self._files = root / "exports", 0

    def add(self, found: Dashboard, corpus: Corpus, words: Words, own: Mapping[str, Any]) -> Path:
        """One SAE; returns its folder."""
        model = str(found.facts["model"]).rpartition("/")[2].lower()
        sourceset = f"saectl-{own['site'].replace('_', '-')}-{found.name.rpartition('-')[2]}"
        source = f"{own['layer']}-{sourceset}"
        folder = self._root / model / source
        for name, row in _tables(found, model, sourceset, source).items():
            self._write(folder / f"{name}.jsonl", _lines([row]))
        said = _Words(words)
        for batch, first in enumerate(range(0, found.features, FEATURES)):
            part = range(first, min(first + FEATURES, found.features))
            said.learn(_ids(found, corpus, part))
            features = (_feature(found, f, said, model, source) for f in part)
            self._write(folder / "features" / f"batch-{batch}.jsonl.gz", _packed(features))
            rows = (
                row for f in part for row in _activations(found, f, corpus, said, model, source)
            )
            self._write(folder / "activations" / f"batch-{batch}.jsonl.gz", _packed(rows))
        return folder

    def finish(self) -> int:
        """How many files were written."""
        return self._files

    def _write(self, path: Path, data: bytes) -> None:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data, durable=False)
        self._files += 1


class _Words:
    """What tokens say, each asked for once."""

    def __init__(self, words: Words) -> None:
        self._words, self._known = words, dict[int, str]()

    def learn(self, ids: Sequence[int]) -> None:
        new = [i for i in ids if i not in self._known]
        self._known |= zip(new, self._words(new), strict=True)

    def __call__(self, ids: Any) -> list[str]:
        return [self._known[int(i)] for i in ids]


def _tables(found: Dashboard, model: str, sourceset: str, source: str) -> dict[str, Any]:
    facts = dict(found.facts)
    about = f"{facts.get('architecture')} SAE, {facts.get('width')} features, {facts.get('site')}"
    return {
        "release": {"name": sourceset, "description": about},
        "model": {"id": model, "displayName": str(facts["model"])},
        "sourceset": {
            "modelId": model, "name": sourceset, "description": about, "type": facts["site"],
            "releaseName": sourceset,
        },
        "source": {
            "modelId": model, "id": source, "setName": sourceset, "dataset": "",
            "num_features": found.features, "saeName": found.name,
        },
    }  # fmt: skip


def _ids(found: Dashboard, corpus: Corpus, part: range) -> list[int]:
    """The tokens that some features show."""
    rows = slice(part.start, part.stop)
    numbers = np.unique(np.concatenate([e.number[rows].ravel() for e in (found.top, found.sample)]))
    parts = [corpus.ids(int(n)) for n in numbers if n != NONE]
    parts += [r.ids[rows].ravel() for r in (found.up, found.down) if r is not None]
    return np.unique(np.concatenate(parts)).tolist() if parts else []


def _feature(found: Dashboard, f: int, words: _Words, model: str, source: str) -> dict[str, Any]:
    counts = found.histogram[f]
    filled = np.flatnonzero(counts)
    shown = slice(filled[0], filled[-1] + 1) if len(filled) else slice(0, 0)
    middles = (found.edges[:-1][shown] + found.edges[1:][shown]) / 2

    def logits(ranked: Ranked | None) -> tuple[list[str], list[float]]:
        return ([], []) if ranked is None else (words(ranked.ids[f]), _plain(ranked.values[f]))

    up, down = logits(found.up), logits(found.down)
    near = found.near
    return {
        "modelId": model,
        "layer": source,
        "index": str(f),
        "maxActApprox": float(found.largest[f]),
        "frac_nonzero": float(found.density[f]),
        "freq_hist_data_bar_heights": counts[shown].tolist(),
        "freq_hist_data_bar_values": _plain(middles),
        "pos_str": up[0],
        "pos_values": up[1],
        "neg_str": down[0],
        "neg_values": down[1],
        "topkCosSimIndices": [] if near is None else near.ids[f].tolist(),
        "topkCosSimValues": [] if near is None else _plain(near.values[f]),
    }


def _activations(
    found: Dashboard, f: int, corpus: Corpus, words: _Words, model: str, source: str
) -> Iterator[dict[str, Any]]:
    rows = [(found.top, i, TOP_BIN, TOP_BIN, 0.0) for i in _there(found.top.number[f])]
    groups, peaks = found.groups[f], found.sample.peak[f]
    for i in _there(found.sample.number[f]):
        own = peaks[(groups == groups[i]) & (found.sample.number[f] != NONE)]
        share = len(own) / max(1, int((found.sample.number[f] != NONE).sum()))
        rows.append((found.sample, i, float(own.min()), float(own.max()), share))
    for n, (examples, i, low, high, share) in enumerate(rows):
        ids = corpus.ids(int(examples.number[f, i]))
        values = examples.values[f, i, : len(ids)]
        yield {
            "id": f"{model}-{source}-{f}-{n}",
            "modelId": model,
            "layer": source,
            "index": str(f),
            "tokens": words(ids),
            "values": _plain(values),
            "maxValue": float(values.max()),
            "maxValueTokenIndex": int(values.argmax()),
            "minValue": float(values.min()),
            "binMin": low,
            "binMax": high,
            "binContains": share,
        }


def _there(numbers: Any) -> list[int]:
    return np.flatnonzero(numbers != NONE).tolist()


def _plain(values: Any) -> list[float]:
    return [float(f"{v:.6g}") for v in values]


def _lines(rows: Any) -> bytes:
    """JSON, a line each, in the strict sense: what some readers take for an end of line is escaped,
    half a character is a question mark."""
    text = "".join(json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in rows)
    for mark in ("\x85", "\u2028", "\u2029"):
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text.encode("utf-8", "replace")


def _packed(rows: Any) -> bytes:
    return gzip.compress(_lines(rows), 6, mtime=0)
