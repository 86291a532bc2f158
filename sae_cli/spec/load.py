"""A sweep file to a checked sweep: YAML, overrides, schema, files, cells; all problems at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_cli.errors import UsageError
from sae_cli.spec import models, yaml
from sae_cli.spec.cell import Cell
from sae_cli.spec.matrix import expand
from sae_cli.spec.presets import PRESETS, ModelFacts, shipped, shipped_folder
from sae_cli.spec.problems import Loc, Problem, SpecProblems, closest, from_validation
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.steering import PromptSet
from sae_cli.spec.sweep import SweepSpec, known_keys

_DECIDE_THE_CELLS = {"matrix", "train", "model", "models"}


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
    """The shipped sweep that stands for `--model` alone: the preset's, else any_model.yaml."""
    preset = PRESETS.get(model)
    found = shipped(preset.sweep if preset else "any_model.yaml")
    if found is None:
        raise UsageError(f"no sweep ships for model {model}: give a sweep file")
    return found


def load(
    path: Path,
    sets: Sequence[str] = (),
    model: str | None = None,
    fetch: Callable[[ModelSpec], None] | None = None,
) -> Sweep:
    """Read, override and check the sweep at `path`.

    `sets` are `a.b=v` assignments; `model` replaces the sweep's model(s). `fetch` is called for a
    hub model whose sizes are not known on this machine, to bring its config.json. Raises
    SpecError with file:line:col of every problem, UsageError if there is no such file.
    """
    document = yaml.load(path)
    if not isinstance(document.data, dict):
        raise yaml.explain(SpecProblems([Problem((), "a sweep is a mapping of keys")]), document)
    for assignment in sets:
        yaml.override(document, assignment)
    if model is not None:
        _replace_model(document, model)
    try:
        sweep = _check(document.data, fetch)
    except SpecProblems as e:
        raise yaml.explain(SpecProblems([*document.problems, *e.problems]), document) from None
    if document.problems:
        raise yaml.explain(SpecProblems(document.problems), document)
    return sweep


def _replace_model(document: yaml.Document, model: str) -> None:
    """Read `model` instead: exclude and include entries that name others no longer apply."""
    yaml.assign(document, ("model",), model, f"--model {model}")
    matrix = document.data.get("matrix")
    if isinstance(matrix, dict):
        matrix.pop("model", None)
        for key in ("exclude", "include"):
            if isinstance(matrix.get(key), list):
                matrix[key] = [
                    {k: v for k, v in e.items() if k != "model"} if isinstance(e, dict) else e
                    for e in matrix[key]
                    if not isinstance(e, dict) or e.get("model", model) == model
                ]


def _check(data: dict[str, Any], fetch: Callable[[ModelSpec], None] | None) -> Sweep:
    try:
        spec = SweepSpec.model_validate(data)
    except ValidationError as e:
        problems = from_validation(e, known_keys())
        broken = {str(p.loc[0]) for p in problems if p.loc}
        broken |= {str(p.suggestion) for p in problems if len(p.loc) == 1}  # `modle` breaks `model`
        spec = _without(broken, data)
        problems += _files(spec, broken)
        if broken & _DECIDE_THE_CELLS:  # what is wrong with the cells would be a guess
            raise SpecProblems(problems) from None
    else:
        problems = _files(spec)
    found: dict[str, ModelSpec] = {}
    sizes: dict[str, ModelFacts | None] = {}

    def facts(name: str, loc: Loc) -> ModelFacts | None:
        found[name] = models.resolve(name, spec, loc)
        sizes[name] = models.facts(found[name])
        if sizes[name] is None and found[name].hf is not None and fetch is not None:
            fetch(found[name])
            sizes[name] = models.facts(found[name])
        return sizes[name]

    try:
        cells = expand(spec, facts)
    except SpecProblems as e:
        raise SpecProblems([*problems, *e.problems]) from None
    problems += _nothing_to_probe(spec, found) + _no_labels(spec, found)
    problems += _nobody_asks(spec, found)
    if problems:
        raise SpecProblems(problems)
    return Sweep(spec, tuple(cells), found, sizes)


def _without(broken: Collection[str], data: dict[str, Any]) -> SweepSpec:
    """The sweep with its broken sections at their defaults, so that the rest is checked too."""
    sound = {k: v for k, v in data.items() if k not in broken}
    return SweepSpec.model_validate({"name": "unnamed", **sound})


def _files(spec: SweepSpec, broken: Collection[str] = ()) -> list[Problem]:
    """What the sections that are not broken ask of the disk and of each other in vain."""
    problems = []
    for i, source in enumerate(spec.data.sources):
        if source.path is not None and not source.digest and not models.local(source.path).exists():
            what = models.missing(source.path, "file or folder")
            problems.append(Problem(("data", "sources", i, "path"), what))
    for i, task in enumerate(spec.studies.probing.tasks if spec.studies.probing else ()):
        if task.path is not None and not task.digest and not models.local(task.path).exists():
            what = models.missing(task.path, "file or folder")
            problems.append(Problem(("studies", "probing", "tasks", i, "path"), what))
    for place, some in _prompt_sets(spec).items():
        for i, each in enumerate(some):
            if each.path is not None and not each.digest and not models.local(each.path).exists():
                what = models.missing(each.path, "file or folder")
                problems.append(Problem(("studies", "steering", place, i, "path"), what))
    for name, model in spec.models.items():
        if model.path is not None and (wrong := models.no_model_folder(model.path)):
            problems.append(Problem(("models", name, "path"), wrong))
    if "data" not in broken:
        problems += _contexts(spec)
    held, wanted = spec.data.heldout_tokens, spec.eval.tokens
    if wanted is not None and wanted > held and "data" not in broken:
        problems.append(
            Problem(
                ("eval", "tokens"),
                f"{wanted} held-out tokens are asked for, but data.heldout_tokens is {held}",
            )
        )
    return problems


def _nothing_to_probe(spec: SweepSpec, found: Mapping[str, ModelSpec]) -> list[Problem]:
    """Only the embedded model has data sets of its own to probe."""
    others = sorted(name for name, model in found.items() if model.builtin is None)
    if spec.studies.probing is None or spec.studies.probing.tasks or not others:
        return []
    return [
        Problem(
            ("studies", "probing"),
            f"{others[0]} needs data sets to probe, for example tasks: [{{sae_probes: all}}] or "
            "tasks: [{path: reviews.jsonl}]",
        )
    ]


def _prompt_sets(spec: SweepSpec) -> dict[str, tuple[PromptSet, ...]]:
    asked = spec.studies.steering
    return {} if asked is None else asked.sets


def _nobody_asks(spec: SweepSpec, found: Mapping[str, ModelSpec]) -> list[Problem]:
    """Only the embedded model has prompts of its own to refuse or to answer."""
    others = sorted(name for name, model in found.items() if model.builtin is None)
    return [
        Problem(
            ("studies", "steering"),
            f"{others[0]} needs {place} prompts, for example {place}: [{{path: {place}.jsonl}}]",
        )
        for place, some in _prompt_sets(spec).items()
        if others and not some and place != "matched"
    ]


def _no_labels(spec: SweepSpec, found: Mapping[str, ModelSpec]) -> list[Problem]:
    """Only the embedded model's language has labels and prompts whose truth is known."""
    problems = []
    others = sorted(name for name, model in found.items() if model.builtin is None)
    for study in ("truth", "localisation"):
        if getattr(spec.studies, study) is None:
            continue
        at = ("studies", study)
        if others:
            what = f"{study} knows the embedded model's language alone, and {others[0]} is another"
            problems.append(Problem(at, f"{what}: leave it out, or make it in a sweep of its own"))
        elif study == "truth" and (
            [source.builtin for source in spec.data.sources] != ["tiny"] or spec.data.chat_template
        ):
            what = "only the built-in text, as it is, has labels: data.sources: [{builtin: tiny}]"
            problems.append(Problem(at, what))
    return problems


def _contexts(spec: SweepSpec) -> list[Problem]:
    """Contexts to evaluate on that the held-out blocks can't be joined to."""
    size, data, at = spec.data.context, spec.data, ("eval", "contexts")
    held = -(-min(data.heldout_tokens, spec.eval.tokens or data.heldout_tokens) // size) * size
    problems = []
    for length in spec.eval.contexts:
        if length % size or length <= size:
            what = f"{length} is no multiple, twice at least, of data.context, which is {size}"
            problems.append(Problem(at, f"{what}: held-out blocks are joined"))
        elif length > held:
            what = f"{held} held-out tokens have no context of {length}"
            problems.append(Problem(at, f"{what}: raise data.heldout_tokens"))
    return problems
