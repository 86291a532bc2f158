"""The cards of a release, of the suite and of each SAE, made from its records alone: a missing
field says `unknown`.

What a card says of time is `unknown`, always: the same records give the same bytes, whichever
machine ran them and however long it took. The workspace keeps that (`saectl status`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from sae_cli import __version__
from sae_cli.stages.card_entry import UNKNOWN, Entry
from sae_cli.stages.formats import Account

README = "README.md"


def card(
    suite: str,
    release: Mapping[str, Any],
    entries: Sequence[Entry],
    formats: Mapping[str, Account] | None = None,
    version: str = __version__,
) -> str:
    """Markdown of the suite's card. `release` is what the sweep says of it (title, description,
    authors, license, dtype), `formats` what became of each other format that was asked for,
    `version` that of the saectl that made the release."""
    return _rendered(
        "card.md.j2",
        title=release.get("title") or suite,
        release=release,
        version=version,
        entries=entries,
        controls=any(e.controls for e in entries),
        formats=formats or {},
        models=_unique(map(model_of, entries)),
        imported=[e for e in entries if e.imported],
        training=training_of(entries),
        data=_unique(data_of(e.own["data"]) for e in entries),
        masks=_unique(mask_of(e.own["mask"]) for e in entries),
        hardware=_unique(hardware_of(e) for e in entries),
        bootstrap=_unique(e.bootstrap for e in entries),
    )


def sae_card(
    entry: Entry,
    suite: str,
    release: Mapping[str, Any],
    digests: Mapping[str, str],
    version: str = __version__,
) -> str:
    """Markdown of one SAE's card. `digests` are the sha256 of the other files of its folder."""
    return _rendered(
        "card_sae.md.j2",
        e=entry,
        suite=suite,
        release=release,
        version=version,
        digests=digests,
        model=model_of(entry),
        data=data_of(entry.own["data"]),
        mask=mask_of(entry.own["mask"]),
        hardware=hardware_of(entry),
    )


def _rendered(template: str, **what: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    text = (files("sae_cli.stages") / template).read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(text).render(**what)


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def training_of(entries: Sequence[Entry]) -> str:
    """On what text they were trained: of those that others trained it is not known here."""
    known = _unique(data_of(e.own["data"]) for e in entries if not e.imported)
    unknown = sum(e.imported is not None for e in entries)
    if unknown:
        known.append(UNKNOWN if unknown == len(entries) else f"unknown of {unknown}, imported")
    return "; ".join(known)


def model_of(entry: Entry) -> str:
    """The model's name, revision or digest, and number format."""
    model = entry.own["model"]
    revision = model["revision"] or (model["digest"] and f"sha256 {model['digest'][:16]}")
    name = entry.cfg["metadata"]["model_name"]
    drawn = model.get("reinit")
    anew = "" if drawn is None else f", a control: all weights drawn anew from seed {drawn}"
    return f"{name} ({revision or 'revision unknown'}, {model['dtype']}{anew})"


def data_of(data: dict[str, Any]) -> str:
    """Sources with their revisions, amounts, and how held-out text was parted."""
    sources = []
    for s in data["sources"]:
        name = s["hf"] or (s["builtin"] and f"built-in text `{s['builtin']}`") or "local files"
        revision = s["revision"] or (s["digest"] and f"sha256 {s['digest'][:16]}") or UNKNOWN
        sources.append(f"{name} ({revision})")
    return (
        f"{' + '.join(sources)}: {data['tokens']:,} tokens, {data['heldout_tokens']:,} held out by "
        f"document, contexts of {data['context']}"
    )


def mask_of(mask: dict[str, Any]) -> str:
    """Which tokens count."""
    parts = []
    if mask["special"]:
        parts.append("no special tokens")
    if mask["first_positions"]:
        parts.append(f"not the first {mask['first_positions']} of a context")
    if mask["outlier_multiple"] is not None:
        parts.append(f"no norms above {mask['outlier_multiple']:g} times the site's median")
    return ", ".join(parts) or "all"


def hardware_of(entry: Entry) -> str:
    """The kind of device that finished the training, and in how many processes."""
    device = entry.made.get("device")
    return f"{device}, {entry.parallel}" if device else UNKNOWN
