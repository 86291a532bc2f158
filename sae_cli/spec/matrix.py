"""A sweep's matrix to its cells: product, then exclude, then include, strictly.

GitHub's words with one meaning each: an include is a complete cell and never merges; an exclude
that matches nothing, a duplicate cell, and a field of another architecture are errors. Every
problem points at the line that said it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sae_cli.spec.presets import ModelFacts
from sae_cli.spec.problems import Loc, Problem, SpecProblems, from_validation
from sae_cli.spec.stages import ARCHITECTURES, Site, Train
from sae_cli.spec.sweep import SweepSpec

Facts = Callable[[str, Loc], ModelFacts | None]
_PLACE = ("model", "layer", "depth", "site")


@dataclass(frozen=True)
class Cell:
    """One SAE of a sweep: what it reads, and how it is trained (`train.width` is resolved)."""

    model: str
    layer: int
    site: Site
    train: Train


@dataclass
class _Draft:
    """A cell under construction: each value with the place in the file that gave it."""

    values: dict[str, Any]
    places: dict[str, Loc]
    origin: Loc


def expand(sweep: SweepSpec, facts: Facts) -> list[Cell]:
    """The cells of `sweep`, in the order of the file.

    `facts(model, loc)` gives a model's sizes, None where they can't be known yet, and raises
    SpecProblems for a model that can't exist. Raises SpecProblems with all problems.
    """
    problems: list[Problem] = []
    sizes: dict[str, ModelFacts | None] = {}

    def sizes_of(model: str, loc: Loc) -> ModelFacts | None:
        if model not in sizes:
            sizes[model] = None
            try:
                sizes[model] = facts(model, loc)
            except SpecProblems as e:
                problems.extend(e.problems)
        return sizes[model]

    drafts = _exclude(sweep, _product(sweep, sizes_of, problems), problems)
    drafts += _include(sweep, problems)
    if not drafts and not problems:
        problems.append(Problem(("matrix",), "no cell is left: exclude matches them all"))
    cells: dict[Cell, _Draft] = {}
    for draft in drafts:
        cell = _finish(draft, sweep, sizes_of, problems)
        if cell is None:
            continue
        if cell in cells:
            problems.append(
                Problem(draft.origin, "this cell is already there: " + _describe(draft))
            )
        cells[cell] = draft
    if problems:
        raise SpecProblems(list(dict.fromkeys(problems)))
    return list(cells)


def _axes(sweep: SweepSpec) -> dict[str, tuple[Any, ...] | str]:
    return {
        name: getattr(sweep.matrix, name)
        for name in type(sweep.matrix).model_fields
        if name not in ("include", "exclude") and getattr(sweep.matrix, name) is not None
    }


def _product(sweep: SweepSpec, sizes_of: Any, problems: list[Problem]) -> list[_Draft]:
    axes = _axes(sweep)
    if not axes and sweep.matrix.include:
        return []
    if "model" in axes and sweep.model is not None:
        problems.append(Problem(("model",), "the matrix has a model axis too: keep one", at="key"))
    if "layer" in axes and "depth" in axes:
        problems.append(Problem(("matrix", "depth"), "layer is an axis too: keep one", at="key"))
    models = axes.pop("model", None) or (sweep.model or "tiny",)
    layers = axes.pop("layer", None)
    out: list[_Draft] = []
    for m, model in enumerate(models):
        place: Loc = ("matrix", "model", m) if sweep.matrix.model else ("model",)
        listed = layers if isinstance(layers, tuple) else None
        if layers == "all":
            size = sizes_of(model, place)
            if size is None:
                problems.append(
                    Problem(
                        ("matrix", "layer"),
                        f"`all` needs the sizes of {model}, which are not known "
                        "before its config.json is on this machine: list the layers",
                    )
                )
                continue
            listed = tuple(range(size.n_layers))
        spread: dict[str, Any] = {"layer": listed, **axes} if listed else dict(axes)
        names = list(spread)
        for picks in itertools.product(*(enumerate(spread[n]) for n in names)):
            draft = _Draft({"model": model}, {"model": place}, ("matrix",))
            for name, (i, value) in zip(names, picks, strict=True):
                loc: Loc = (
                    ("matrix", name) if name == "layer" and layers == "all" else ("matrix", name, i)
                )
                _put(draft, name, value, loc, problems)
            out.append(draft)
    return out


def _put(draft: _Draft, name: str, value: Any, loc: Loc, problems: list[Problem]) -> None:
    given = _given(value) if name == "sae" else {name: value}
    for key, v in given.items():
        place = (*loc, key) if name == "sae" else loc
        if key in draft.values:
            problems.append(Problem(place, f"{key} is an axis of its own too: keep one", at="key"))
        draft.values[key], draft.places[key] = v, place


def _given(fragment: Any) -> dict[str, Any]:
    return {n: getattr(fragment, n) for n in fragment.model_fields_set}


def _exclude(sweep: SweepSpec, drafts: list[_Draft], problems: list[Problem]) -> list[_Draft]:
    for i, fragment in enumerate(sweep.matrix.exclude):
        want = _given(fragment)
        left = [d for d in drafts if not _matches(want, d, sweep)]
        if len(left) == len(drafts):
            problems.append(Problem(("matrix", "exclude", i), "this exclude matches no cell"))
        drafts = left
    return drafts


def _matches(want: dict[str, Any], draft: _Draft, sweep: SweepSpec) -> bool:
    have = {**_given(sweep.train), **draft.values}
    return bool(want) and all(name in have and have[name] == v for name, v in want.items())


def _include(sweep: SweepSpec, problems: list[Problem]) -> list[_Draft]:
    axes = _axes(sweep)
    out = []
    for i, fragment in enumerate(sweep.matrix.include):
        given, loc = _given(fragment), ("matrix", "include", i)
        needed = [n for n in axes if n not in ("sae", "layer", "depth")]
        missing = [n for n in needed if n not in given]
        if "layer" not in given and "depth" not in given:
            missing.append("layer")
        if missing:
            problems.append(
                Problem(loc, f"an include is a complete cell; missing: {', '.join(missing)}")
            )
            continue
        if "layer" in given and "depth" in given:
            problems.append(Problem((*loc, "depth"), "layer is given too: keep one", at="key"))
        values = {"model": sweep.model or "tiny", **given}
        out.append(_Draft(values, {n: (*loc, n) for n in values}, loc))
    return out


def _finish(draft: _Draft, sweep: SweepSpec, sizes_of: Any, problems: list[Problem]) -> Cell | None:
    values = draft.values
    before = len(problems)
    size = sizes_of(values["model"], draft.places["model"])
    site = values.get("site", "resid_post")
    layer = _layer(draft, size, problems)
    shared = _given(sweep.train)
    fields = {**shared, **{k: v for k, v in values.items() if k not in _PLACE}}
    if "width" in values or "expansion" in values:  # the matrix overrides either form
        for form in ("width", "expansion"):
            if form in shared and form not in values:
                del fields[form]
    places = {**{k: ("train", k) for k in shared}, **draft.places}
    arch = fields.setdefault("arch", "topk")
    for name in [n for n in fields if n not in ARCHITECTURES[arch].model_fields]:
        owners = [a for a, s in ARCHITECTURES.items() if name in s.model_fields]
        problems.append(
            Problem(
                places[name],
                f"{name} is a field of {', '.join(owners)}, not of {arch}: give it "
                "together with its arch, as an entry of matrix.sae",
                at="key",
            )
        )
    if len(problems) > before or layer is None:
        return None
    if "width" not in fields and "expansion" not in fields:
        fields["expansion"] = 8
    if fields.get("expansion") is not None and fields.get("width") is None:
        if size is None:
            problems.append(
                Problem(
                    places.get("expansion", draft.origin),
                    f"expansion needs the sizes of "
                    f"{values['model']}, which are not known yet: give width",
                    at="key",
                )
            )
            return None
        places.setdefault("width", places.get("expansion", draft.origin))
        fields["width"] = fields.pop("expansion") * size.d_in(site)
    try:
        train = ARCHITECTURES[arch](**fields)
    except ValidationError as e:
        for p in from_validation(e, {}):
            at = places.get(str(p.loc[0]), draft.origin) if p.loc else draft.origin
            problems.append(Problem(at, p.what, p.suggestion))
        return None
    k = getattr(train, "k", None)
    if k is not None and k > train.width:
        problems.append(
            Problem(places.get("k", draft.origin), f"k = {k} is more than the width, {train.width}")
        )
        return None
    return Cell(values["model"], layer, site, train)


def _layer(draft: _Draft, size: ModelFacts | None, problems: list[Problem]) -> int | None:
    values, places = draft.values, draft.places
    if "depth" in values:
        if size is None:
            problems.append(
                Problem(
                    places["depth"],
                    f"depth needs the sizes of {values['model']}, "
                    "which are not known yet: give layer",
                )
            )
            return None
        return min(int(values["depth"] * size.n_layers), size.n_layers - 1)
    if "layer" not in values:
        problems.append(Problem(("matrix",), "no layer: give an axis `layer` or `depth`", at="key"))
        return None
    layer: int = values["layer"]
    if size is not None and layer >= size.n_layers:
        problems.append(
            Problem(
                places["layer"],
                f"layer {layer} is out of range: {values['model']} has layers 0 to "
                f"{size.n_layers - 1}",
            )
        )
        return None
    return layer


def _describe(draft: _Draft) -> str:
    return ", ".join(f"{k}: {v}" for k, v in draft.values.items())
