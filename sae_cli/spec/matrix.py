"""A sweep's matrix to its cells: product, then exclude, then include, strictly.

GitHub's words with one meaning each: an include is a complete cell and never merges; an exclude
that matches nothing, a duplicate cell, and a field of another architecture are errors. Every
problem points at the line that said it.
"""

from __future__ import annotations

import itertools
from typing import Any

from sae_cli.spec.cell import ARCH, SITE, Cell, Draft, Facts, Models, finish
from sae_cli.spec.problems import Loc, Problem, SpecProblems
from sae_cli.spec.sweep import SweepSpec


def expand(sweep: SweepSpec, facts: Facts) -> list[Cell]:
    """The cells of `sweep`, in the order of the file.

    `facts(model, loc)` gives a model's sizes, None where they can't be known yet, and raises
    SpecProblems for a model that can't exist. Raises SpecProblems with all problems.
    """
    problems: list[Problem] = []
    models = Models(facts, problems)
    drafts = _exclude(sweep, _product(sweep, models, problems), problems)
    drafts += _include(sweep, problems)
    if not drafts and not problems:
        problems.append(
            Problem(("matrix", "exclude"), "no cell is left: exclude matches them all", at="key")
        )
    cells: dict[Cell, Draft] = {}
    for draft in drafts:
        cell = finish(draft, _given(sweep.train), models, problems)
        if cell is None:
            continue
        if cell in cells:
            problems.append(
                Problem(
                    draft.origin,
                    "this cell is already there: " + _describe(draft, cell),
                    at="key" if draft.origin == ("matrix",) else "value",
                )
            )
        cells.setdefault(cell, draft)
    if problems:
        raise SpecProblems(list(dict.fromkeys(problems)))
    return list(cells)


def _axes(sweep: SweepSpec) -> dict[str, tuple[Any, ...] | str]:
    return {
        name: getattr(sweep.matrix, name)
        for name in type(sweep.matrix).model_fields
        if name not in ("include", "exclude") and getattr(sweep.matrix, name) is not None
    }


def _product(sweep: SweepSpec, models: Models, problems: list[Problem]) -> list[Draft]:
    axes = _axes(sweep)
    if not axes and sweep.matrix.include:
        return []
    if "model" in axes and sweep.model is not None:
        problems.append(Problem(("model",), "the matrix has a model axis too: keep one", at="key"))
    if "layer" in axes and "depth" in axes:
        problems.append(Problem(("matrix", "depth"), "layer is an axis too: keep one", at="key"))
        del axes["depth"]
    values = {
        name: _distinct(("matrix", name), axis, problems)
        for name, axis in axes.items()
        if axis != "all"
    }
    named = values.pop("model", None) or [(("model",), _model(sweep))]
    out: list[Draft] = []
    for place, model in named:
        spread = dict(values)
        if axes.get("layer") == "all":
            size = models.sizes(model, place)
            if size is None:
                models.unknown(model, ("matrix", "layer"), "`all`", "list the layers")
                continue
            spread = {"layer": [(("matrix", "layer"), n) for n in range(size.n_layers)], **values}
        for picks in itertools.product(*spread.values()):
            draft = Draft({"model": model}, {"model": place}, ("matrix",))
            picked = dict(zip(spread, picks, strict=True))
            for name in sorted(
                picked, key=lambda n: n == "sae"
            ):  # it is told if it repeats an axis
                _put(draft, name, *picked[name], problems)
            out.append(draft)
    return out


def _distinct(loc: Loc, axis: Any, problems: list[Problem]) -> list[tuple[Loc, Any]]:
    """The values of an axis, each with its place; one that comes twice is a problem."""
    for i, value in enumerate(axis):
        if value in axis[:i]:
            problems.append(Problem((*loc, i), "this value is already in the axis"))
    return [((*loc, i), value) for i, value in enumerate(axis) if value not in axis[:i]]


def _put(draft: Draft, name: str, loc: Loc, value: Any, problems: list[Problem]) -> None:
    given = _given(value) if name == "sae" else {name: value}
    for key, v in given.items():
        place = (*loc, key) if name == "sae" else loc
        if key in draft.values:
            problems.append(Problem(place, f"{key} is an axis of its own too: keep one", at="key"))
        draft.values[key], draft.places[key] = v, place


def _given(fragment: Any) -> dict[str, Any]:
    given = fragment.model_fields_set
    return {n: getattr(fragment, n) for n in type(fragment).model_fields if n in given}


def _model(sweep: SweepSpec) -> str:
    return "tiny" if sweep.model is None else sweep.model


def _exclude(sweep: SweepSpec, drafts: list[Draft], problems: list[Problem]) -> list[Draft]:
    out = drafts
    for i, fragment in enumerate(sweep.matrix.exclude):
        want = _given(fragment)
        if drafts and not any(_matches(want, d, sweep) for d in drafts):
            problems.append(Problem(("matrix", "exclude", i), "this exclude matches no cell"))
        out = [d for d in out if not _matches(want, d, sweep)]
    return out


def _matches(want: dict[str, Any], draft: Draft, sweep: SweepSpec) -> bool:
    have = {"site": SITE, "arch": ARCH, **_given(sweep.train), **draft.values}
    return bool(want) and all(name in have and have[name] == v for name, v in want.items())


def _include(sweep: SweepSpec, problems: list[Problem]) -> list[Draft]:
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
            del given["depth"]
        places = {n: (*loc, n) for n in given}
        out.append(Draft({"model": _model(sweep), **given}, {"model": ("model",), **places}, loc))
    return out


def _describe(draft: Draft, cell: Cell) -> str:
    shown = {**draft.values, "layer": cell.layer} if "depth" in draft.values else draft.values
    return ", ".join(f"{k}: {v}" for k, v in shown.items())
