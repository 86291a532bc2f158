"""From SAEs that were named to a site of them: whose text, in which passes, written where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_cli import __version__
from sae_cli.cli.named import Named, by_model
from sae_cli.cli.progress import Bars, Lines
from sae_cli.errors import UsageError
from sae_cli.plan.pin import digest, text_digest
from sae_cli.report.browser.neuronpedia import Export
from sae_cli.report.browser.site import Site, about
from sae_cli.spec.stages import DataSpec, MaskSpec
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import Workspace, size_of
from sae_cli.store.records.ledger import is_done

HINT = "say --text FILE (.jsonl or .txt)"


@dataclass(frozen=True)
class Wish:
    """What was asked for."""

    saes: Sequence[Named]
    out: Path
    tokens: int
    text: Path | None
    """A file in the place of the SAEs' own text."""
    workspace: Workspace
    """Where their text, and studies of them, may be."""
    neuronpedia: Path | None

    def fingerprint(self) -> str:
        """Of all that decides what the site shows."""
        said = [__version__, self.tokens, None if self.text is None else digest(self.text)]
        saes = [
            [each.name, str(each.folder.resolve()), dict(each.own), _notes(each, self.workspace)]
            for each in self.saes
        ]
        plain = json.dumps([said, saes], sort_keys=True, default=str)
        return hashlib.sha256(plain.encode()).hexdigest()


@dataclass
class Built:
    """What was made."""

    bytes: int = 0
    saes: list[dict[str, Any]] = field(default_factory=list)
    folders: dict[str, Named] = field(default_factory=dict)
    """The SAE behind each folder of the site."""
    exported: int = 0
    """Files in Neuronpedia's form."""


def build(wish: Wish, progress: Lines | Bars) -> Built:
    """The site, in its place. Raises UsageError where an SAE has no text here, or the place is
    taken, and what reading models, SAEs and text raises."""
    from sae_cli.studies.dashboards import build as pass_over
    from sae_cli.studies.dashboards.collect import Sizes
    from sae_cli.studies.watch.live import Reader

    groups = [some for same in by_model(wish.saes) for some in _by_text(same, wish)]
    for some in groups:
        _source(some[0], wish)  # a missing text is told before any work is done
    built, sizes = Built(), Sizes()
    export = None if wish.neuronpedia is None else Export(wish.neuronpedia)
    with Site(wish.out, made_of=wish.fingerprint()) as site:
        reader: Any = None
        for some in groups:
            if reader is None or reader.spec != some[0].model:
                progress.note(f"loading {_model_name(some[0])}")
                reader = Reader(some[0].model)
            text = _source(some[0], wish)(reader.tokenizer)
            corpus = pass_over.corpus_of(text, sizes)
            words = _words(reader)
            shown = site.text(corpus, words, _vocabulary(reader))
            needs = [pass_over.room_for(*_shape(each), sizes) for each in some]
            for group in pass_over.groups(some, needs, pass_over.room()):
                watched = [_watched(each, reader, wish, progress.note) for each in group]
                label = f"{len(group)} SAE{'s' * (len(group) != 1)}"
                progress.begin(label, corpus.tokens.size, 0, "tokens")
                for each, found in zip(
                    group,
                    pass_over.dashboards(watched, reader.model, text, sizes, at=progress.at),
                    strict=True,
                ):
                    folder = site.add(found, shown)
                    if export is not None:
                        export.add(found, corpus, words, each.own)
                    progress.note(f"wrote {folder}")
                    built.folders[folder] = each
                    dead = int((found.fired == 0).sum())
                    built.saes.append(
                        {"name": each.name, "folder": folder, "features": found.features,
                         "dead": dead, "tokens": found.tokens, "notes": len(found.notes),
                         "text": corpus.name}
                    )  # fmt: skip
    built.bytes = site.bytes
    if export is not None:
        built.exported = export.finish()
    return built


def built_before(wish: Wish) -> Built | None:
    """The site that is in the place already, if it is the one that was asked for."""
    there = about(wish.out)
    if not isinstance(there, dict) or there.get("made_of") != wish.fingerprint():
        return None
    named = {each.name: each for each in wish.saes}
    found = Built(size_of(wish.out))
    for sae in there["saes"]:
        found.folders[sae["folder"]] = named[sae["name"]]
        found.saes.append({n: sae[n] for n in ("name", "folder", "features", "dead", "tokens",
                                               "notes", "text")})  # fmt: skip
    return found


def trials(folders: Mapping[str, Named]) -> Callable[[str, Mapping[str, Any]], dict[str, Any]]:
    """What answers a page's questions about the SAEs of its folders; the first one is loaded."""
    from sae_cli.studies.dashboards.trying import Trials

    found = Trials({name: (s.folder, s.own, s.model, s.limit) for name, s in folders.items()})
    found.load(next(iter(folders)))
    return found.answer


def _by_text(saes: Sequence[Named], wish: Wish) -> list[list[Named]]:
    """SAEs whose text is one and the same."""
    found: dict[str, list[Named]] = {}
    for each in saes:
        same = [each.own.get("keys", {}).get("tokens"), each.own.get("data")]
        key = "" if wish.text is not None else json.dumps(same, sort_keys=True)
        found.setdefault(key, []).append(each)
    return list(found.values())


def _source(sae: Named, wish: Wish) -> Callable[[Any], Any]:
    """How its text is had, given a tokenizer. Raises UsageError where it can't be."""
    own, tokens, file = sae.own, wish.tokens, wish.text
    data = own.get("data") or {}
    if file is not None:
        if file.suffix not in (".jsonl", ".txt") or not file.is_file():
            raise UsageError(f"{file} is no .jsonl or .txt file")
        mask = MaskSpec.model_validate(own["mask"])
        context = int(data.get("context", 128))
        return lambda tokenizer: _texts().file_text(file, tokenizer, mask, context, tokens)
    key = (own.get("keys") or {}).get("tokens")
    for root in dict.fromkeys([wish.workspace.root, *sae.folder.resolve().parents[1:3]]):
        for place in Workspace(root).stages("tokens"):
            if place.key == key and is_done(place):
                path = place.path
                return lambda tokenizer: _texts().stored_text(path, tokens)
    sources = data.get("sources") or ()
    if not sources:
        raise UsageError(
            f"{sae.name}: its record does not say what text it was trained on", hint=HINT
        )
    for source in sources:
        if source.get("builtin") is None:
            raise UsageError(
                f"{sae.name}: the text that it was trained on is neither built in nor in "
                f"{wish.workspace.root}",
                hint=f"{HINT}, or --store DIR",
            )
        if source.get("digest") != text_digest():
            raise UsageError(
                f"{sae.name}: the built-in text is another one in this version of saectl", hint=HINT
            )
    spec = DataSpec.model_validate(data)
    return lambda tokenizer: _texts().packed_text(spec, tokenizer, tokens)


def _texts() -> Any:
    from sae_cli.studies.dashboards import texts

    return texts


def _watched(sae: Named, reader: Any, wish: Wish, say: Callable[[str], None]) -> Any:
    from sae_cli.studies.dashboards.build import Watched
    from sae_cli.studies.watch.live import Live

    notes, lacking, wrong = _notes(sae, wish.workspace)
    if wrong:
        say(f"{sae.name}: its studies can't be read, and are left out: {wrong}")
    live = Live(reader, sae.folder, sae.own, sae.limit)
    return Watched(sae.name, live, facts_of(sae, live.cfg), notes, lacking)


def _notes(sae: Named, workspace: Workspace) -> tuple[dict[int, Any], dict[str, str], str]:
    """What studies say of its features, why something is lacking, and what is wrong with them."""
    from sae_cli.studies.dashboards.records import found

    try:
        return *found(sae.folder, sae.own.get("keys", {}).get("train"), workspace), ""
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {}, {"studies": "their records can't be read"}, repr(error)


def facts_of(sae: Named, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What says which SAE it is."""
    own, train = sae.own, sae.own.get("train") or {}
    found = {
        "model": _model_name(sae),
        "layer": own["layer"],
        "site": own["site"],
        "predicts": own.get("out_site"),
        "architecture": own.get("arch") or train.get("arch"),
        "width": cfg["d_sae"],
        "k": cfg.get("k"),
        "training tokens": train.get("num_tokens"),
        "seed": train.get("seed"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _model_name(sae: Named) -> str:
    model = sae.own["model"]
    return str(model.get("hf") or model.get("builtin") or Path(model.get("path") or "model").name)


def _shape(sae: Named) -> tuple[int, int]:
    cfg = read_json(sae.folder / "cfg.json")
    return int(cfg["d_sae"]), int(cfg["d_in"])


def _vocabulary(reader: Any) -> int:
    return max(
        len(reader.tokenizer), int(reader.model.get_output_embeddings().weight.shape[0]),
        int(reader.model.get_input_embeddings().num_embeddings),
    )  # fmt: skip


def _words(reader: Any) -> Callable[[Sequence[int]], list[str]]:
    from sae_cli.studies.dashboards.texts import words_of

    return lambda ids: words_of(reader.tokenizer, ids)
