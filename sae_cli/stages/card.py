"""The model card of a suite, made from its records alone: a missing field says `unknown`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from sae_cli import __version__
from sae_cli.spec.work import ReleaseWork
from sae_cli.stages.formats import Account


@dataclass(frozen=True)
class _Entry:
    """One SAE as the template sees it."""

    folder: str
    cfg: dict[str, Any]
    metrics: dict[str, float | None]

    @property
    def own(self) -> dict[str, Any]:
        """Our record of where the SAE comes from."""
        record: dict[str, Any] = self.cfg["metadata"]["saectl"]
        return record

    @property
    def imported(self) -> dict[str, Any] | None:
        """Which files of another project it was read from; None of one that was trained here."""
        return self.own.get("imported")

    @property
    def arch(self) -> str:
        """Our name of the architecture."""
        return f"{self.own['arch']} transcoder" if self.out_site else str(self.own["arch"])

    @property
    def out_site(self) -> str | None:
        """The site that a transcoder predicts."""
        return self.own.get("out_site")

    @property
    def site(self) -> str:
        """Where it reads and, of a transcoder, what it predicts."""
        site = str(self.own["site"])
        return f"{site} to {self.out_site}" if self.out_site else site

    def m(self, name: str, form: str) -> str:
        """A metric for a table; `-` where it is null or was not measured."""
        value = self.metrics.get(name)
        return "-" if value is None else format(value, form)


def card(
    work: ReleaseWork,
    entries: Sequence[dict[str, Any]],
    formats: Mapping[str, Account] | None = None,
) -> str:
    """Markdown of the card. `entries` hold folder, cfg and metrics of each SAE, `formats` what
    became of each other format that was asked for."""
    from jinja2 import Environment, StrictUndefined

    template = (files("sae_cli.stages") / "card.md.j2").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    seen = [_Entry(**e) for e in entries]
    return environment.from_string(template).render(
        title=work.release.title or work.name,
        description=work.release.description,
        authors=work.release.authors,
        license=work.release.license,
        version=__version__,
        dtype=work.release.dtype,
        entries=seen,
        formats=formats or {},
        models=_unique(_model(e) for e in seen),
        imported=[e for e in seen if e.imported],
        training=_training(seen),
        data=_unique(_data(e.own["data"]) for e in seen),
        masks=_unique(_mask(e.own["mask"]) for e in seen),
    )


def _unique(texts: Any) -> list[str]:
    return list(dict.fromkeys(texts))


def _training(entries: Sequence[_Entry]) -> str:
    """On what text they were trained: of those that others trained it is not known here."""
    known = _unique(_data(e.own["data"]) for e in entries if not e.imported)
    unknown = sum(e.imported is not None for e in entries)
    if unknown:
        known.append("unknown" if unknown == len(entries) else f"unknown of {unknown}, imported")
    return "; ".join(known)


def _model(entry: _Entry) -> str:
    model = entry.own["model"]
    revision = model["revision"] or (model["digest"] and f"sha256 {model['digest'][:16]}")
    name = entry.cfg["metadata"]["model_name"]
    return f"{name} ({revision or 'revision unknown'}, {model['dtype']})"


def _data(data: dict[str, Any]) -> str:
    sources = []
    for s in data["sources"]:
        name = s["hf"] or (s["builtin"] and f"built-in text `{s['builtin']}`") or "local files"
        revision = s["revision"] or (s["digest"] and f"sha256 {s['digest'][:16]}") or "unknown"
        sources.append(f"{name} ({revision})")
    return (
        f"{' + '.join(sources)}: {data['tokens']:,} tokens, {data['heldout_tokens']:,} held out by "
        f"document, contexts of {data['context']}"
    )


def _mask(mask: dict[str, Any]) -> str:
    parts = []
    if mask["special"]:
        parts.append("no special tokens")
    if mask["first_positions"]:
        parts.append(f"not the first {mask['first_positions']} of a context")
    if mask["outlier_multiple"] is not None:
        parts.append(f"no norms above {mask['outlier_multiple']:g} times the site's median")
    return ", ".join(parts) or "all"
