"""A sweep file to a checked sweep: YAML, overrides, schema, files, cells; all problems at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_cli.errors import UsageError
from sae_cli.spec import models, yaml
from sae_cli.spec.matrix import Cell, expand
from sae_cli.spec.presets import PRESETS, ModelFacts, shipped, shipped_folder
from sae_cli.spec.problems import Loc, Problem, SpecProblems, closest, from_validation
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.sweep import SweepSpec, known_keys


@dataclass(frozen=True)
class Sweep:
    """A sweep that passed every check: its spec, its cells, and the models they read."""

    spec: SweepSpec
    cells: tuple[Cell, ...]
    models: dict[str, ModelSpec]
    facts: dict[str, ModelFacts | None]


def find(name: str | Path) -> Path:
    """The sweep file meant by `name`: a path, or else a sweep that ships with saectl."""
    path = Path(name)
    if path.is_file():
        return path
    found = shipped(str(name))
    if found is not None and (len(path.parts) == 1 or path.parts[0] == "sweeps"):
        return found
    names = [p.name for p in sorted(shipped_folder().glob("*.yaml"))]
    guess = closest(path.name, names)
    raise UsageError(
        f"{name}: no such sweep file" + (f"  did you mean 'sweeps/{guess}'?" if guess else ""),
        hint=f"These ship with saectl: {', '.join(names)}",
    )


def preset_sweep(model: str) -> Path:
    """The shipped sweep that stands for `--model` alone: the preset's, else the tiny one's."""
    preset = PRESETS.get(model)
    found = shipped(preset.sweep if preset else "any_model.yaml")
    if found is None:
        raise UsageError(f"no sweep ships for model {model}: give a sweep file")
    return found


def load(path: Path, sets: Sequence[str] = (), model: str | None = None) -> Sweep:
    """Read, override and check the sweep at `path`.

    `sets` are `a.b=v` assignments; `model` replaces the sweep's model(s). Raises SpecError with
    file:line:col of every problem, UsageError if there is no such file.
    """
    document = yaml.load(path)
    if not isinstance(document.data, dict):
        raise yaml.explain(SpecProblems([Problem((), "a sweep is a mapping of keys")]), document)
    for assignment in sets:
        yaml.override(document, assignment)
    if model is not None:
        _replace_model(document.data, model)
    try:
        sweep = _check(document.data)
    except SpecProblems as e:
        raise yaml.explain(SpecProblems([*document.problems, *e.problems]), document) from None
    if document.problems:
        raise yaml.explain(SpecProblems(document.problems), document)
    return sweep


def _replace_model(data: dict[str, Any], model: str) -> None:
    """Read `model` instead: exclude and include entries that name others no longer apply."""
    data["model"] = model
    matrix = data.get("matrix")
    if isinstance(matrix, dict):
        matrix.pop("model", None)
        for key in ("exclude", "include"):
            if isinstance(matrix.get(key), list):
                matrix[key] = [
                    {k: v for k, v in e.items() if k != "model"}
                    for e in matrix[key]
                    if not isinstance(e, dict) or e.get("model", model) == model
                ]


def _check(data: dict[str, Any]) -> Sweep:
    problems: list[Problem] = []
    try:
        spec = SweepSpec.model_validate(data)
    except ValidationError as e:
        problems = from_validation(e, known_keys())
        rest = _without_broken_sections(data, problems)
        if rest is None:
            raise SpecProblems(problems) from None
        spec = rest
    problems += _files(spec)
    found: dict[str, ModelSpec] = {}
    sizes: dict[str, ModelFacts | None] = {}

    def facts(name: str, loc: Loc) -> ModelFacts | None:
        found[name] = models.resolve(name, spec, loc)
        sizes[name] = models.facts(found[name])
        return sizes[name]

    try:
        cells = expand(spec, facts)
    except SpecProblems as e:
        raise SpecProblems([*problems, *e.problems]) from None
    if problems:
        raise SpecProblems(problems)
    return Sweep(spec, tuple(cells), found, sizes)


def _without_broken_sections(data: dict[str, Any], problems: list[Problem]) -> SweepSpec | None:
    """The sweep with its broken sections at their defaults, so that the rest is checked too.

    None if what is broken decides the cells: their problems would be guesses.
    """
    broken = {p.loc[0] if p.loc else "name" for p in problems}
    if broken & {"matrix", "train", "model", "models", "name"}:
        return None
    try:
        return SweepSpec.model_validate({k: v for k, v in data.items() if k not in broken})
    except ValidationError:
        return None


def _files(spec: SweepSpec) -> list[Problem]:
    problems = []
    for i, source in enumerate(spec.data.sources):
        if source.path is not None and not Path(source.path).expanduser().exists():
            where = Path(source.path).expanduser().absolute()
            problems.append(
                Problem(("data", "sources", i, "path"), f"there is no file or folder {where}")
            )
    for name, model in spec.models.items():
        if model.path is not None and not Path(model.path).expanduser().is_dir():
            problems.append(Problem(("models", name, "path"), f"there is no folder {model.path}"))
    held, wanted = spec.data.heldout_tokens, spec.eval.tokens
    if wanted is not None and wanted > held:
        problems.append(
            Problem(
                ("eval", "tokens"),
                f"{wanted} held-out tokens are asked for, but data.heldout_tokens is {held}",
            )
        )
    return problems
