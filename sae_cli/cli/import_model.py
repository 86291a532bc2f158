"""Which model SAEs are judged on: the one that the files name, or the one that `--model` says.

Projects call one model by several names, so `--model` may overrule a name, and it is told. What it
may not do is to put SAEs of a model whose weights were drawn anew on the trained one: our own
record says so where we released them, and they are judged on that very control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_cli.errors import UsageError
from sae_cli.spec import models
from sae_cli.spec.presets import PRESETS, ModelFacts
from sae_cli.spec.problems import SpecProblems
from sae_cli.spec.stages import ModelSpec, Site
from sae_cli.spec.sweep import SweepSpec
from sae_cli.store.formats.found import Found

_HINT = "--model NAME says which it is: a preset, a hub id (org/name), or a local folder"


@dataclass(frozen=True)
class Given:
    """What the command line says of all SAEs."""

    model: str | None = None
    layer: int | None = None
    site: Site | None = None
    out_site: Site | None = None
    source: str | None = None


@dataclass(frozen=True)
class Target:
    """The model that the SAEs are of, as a sweep names it."""

    name: str
    spec: ModelSpec
    facts: ModelFacts | None
    """None: not known on this machine."""
    like: str
    """The model whose shipped sweep says of which text: it, or what its weights were."""
    entry: Mapping[str, Any] | None = None
    """What stands under `models` of the sweep, where no name says it all."""
    note: str | None = None
    """What the user should know of the choice."""


def target(found: Sequence[Found], given: Given) -> Target:
    """The model: the one that is given, else the one that the files name. Raises UsageError."""
    named = sorted({each.said.model for each in found if each.said.model is not None})
    if given.model is None and len(named) != 1:
        said = f"name several models ({', '.join(named)})" if named else "do not name their model"
        raise UsageError(
            f"the files {said}",
            hint="--model NAME says which it is (a preset, a hub id, or a local folder)"
            + ("; or import one model's folder at a time" if named else ""),
        )
    controls = [each.said.control for each in found if each.said.control is not None]
    if controls and given.model in (None, *named) and len(named) == 1:
        return _control(controls, found, named[0])
    name = given.model or named[0]
    spec = _resolved(name, {}, "" if given.model else "the files name the model ")
    if controls:
        own = sorted({str(each.said.model) for each in found if each.said.control is not None})
        seeds = sorted({str(control["reinit"]) for control in controls})
        raise UsageError(
            f"the files are of {', '.join(own)}, weights drawn anew (reinit {', '.join(seeds)}), "
            f"and --model says {name}, whose weights are as trained",
            hint="leave --model out to judge them on their own model"
            + ("" if len(named) == 1 else ", and import one model's folder at a time"),
        )
    preset = name if name in PRESETS else _preset(spec)
    others = [n for n in named if not _same(n, name, spec, preset)]
    judged = preset or (name if spec.path is None else spec.path)
    note = f"the files name {', '.join(others)}; judged on {judged}" if others else None
    return Target(judged, spec, models.facts(spec), judged, note=note)


def _control(controls: Sequence[Mapping[str, Any]], found: Sequence[Found], named: str) -> Target:
    """The model of the record, its weights drawn anew. Raises UsageError where the record does not
    say whose they were, or not all say the same."""
    keys = ("hf", "builtin", "revision", "reinit")
    entries = [{n: c[n] for n in keys if c.get(n) is not None} for c in controls]
    if len(controls) < len(found) or any(entry != entries[0] for entry in entries):
        raise UsageError(
            f"of SAEs that name the model {named}, not all say the same of it",
            hint="import one model's folder at a time",
        )
    entry = entries[0]
    origin = entry.get("hf") or entry.get("builtin")
    if origin is None:
        raise UsageError(
            f"the files are of {named}: the model of a local folder, weights drawn anew "
            f"(reinit {entry['reinit']}), and which folder is not recorded",
            hint=f"write a sweep with models: {{{named}: {{path: FOLDER, "
            f"reinit: {entry['reinit']}}}}} (docs/formats.md has the cells)",
        )
    like = _preset(ModelSpec(**{n: v for n, v in entry.items() if n in ("hf", "builtin")}))
    base = like or str(origin).rpartition("/")[2]
    name = f"{base}-random{entry['reinit']}"
    spec = _resolved(name, {name: ModelSpec(**entry)}, "")
    return Target(name, spec, models.facts(spec), like or str(origin), entry)


def _resolved(name: str, own: dict[str, ModelSpec], whose: str) -> ModelSpec:
    try:
        return models.resolve(name, SweepSpec(name="import", models=own), ())
    except SpecProblems as error:
        raise UsageError(f"{whose}{error.problems[0].what}", hint=_HINT) from error


def _preset(spec: ModelSpec) -> str | None:
    """The preset that reads the same model."""
    if spec.path is not None:
        return None
    wanted = (spec.hf, spec.builtin)
    return next((n for n, p in PRESETS.items() if (p.model.hf, p.model.builtin) == wanted), None)


def _same(named: str, name: str, spec: ModelSpec, preset: str | None) -> bool:
    """Whether what the files call a model is the one that is meant, by the end of its name:
    TransformerLens leaves out whose it is."""
    meant = {name, preset, spec.hf, spec.builtin, spec.path}
    ends = {str(each).rpartition("/")[2].lower() for each in meant if each}
    return named.rpartition("/")[2].lower() in ends
