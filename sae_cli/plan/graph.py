"""A sweep to its stages: each with the key that names its result, and the stages it reads."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sae_cli.errors import UsageError
from sae_cli.spec.base import identity
from sae_cli.spec.cell import Cell
from sae_cli.spec.imported import ImportedSae, Sae
from sae_cli.spec.load import Sweep
from sae_cli.spec.presets import ModelFacts
from sae_cli.spec.problems import closest
from sae_cli.spec.stages import MaskSpec, ModelSpec, Site, WandbSpec
from sae_cli.spec.studies import COMPARING
from sae_cli.spec.work import (
    KINDS,
    VERSIONS,
    CacheWork,
    EvalWork,
    ImportWork,
    Kind,
    ReleaseWork,
    StudyWork,
    TokensWork,
    TrainWork,
    Work,
)
from sae_cli.store.key import key_of, slug


@dataclass(frozen=True, eq=False)
class Stage:
    """One unit of work. Two stages with the same key have the same result."""

    kind: Kind
    slug: str
    key: str
    work: Work
    deps: Mapping[str, Stage]
    facts: ModelFacts | None = None

    @cached_property
    def name(self) -> str:
        """`kind/slug-key`, as its folder is called."""
        return f"{self.kind}/{self.slug}-{self.key}"


@dataclass
class Graph:
    """All stages of a sweep, in an order in which they can run."""

    sweep: Sweep
    stages: list[Stage] = field(default_factory=list)
    cells: list[tuple[Cell, Stage]] = field(default_factory=list)
    """Each cell with the stage that trains it."""

    def of(self, *kinds: Kind) -> list[Stage]:
        """The stages of some kinds."""
        return [s for s in self.stages if s.kind in kinds]

    def dependants(self, stage: Stage) -> list[Stage]:
        """The stages that read `stage` directly."""
        return [s for s in self.stages if any(d.key == stage.key for d in s.deps.values())]

    def select(self, globs: Iterable[str]) -> list[Stage]:
        """Stages whose `kind/slug-key`, slug, kind or key match any glob.

        Raises UsageError for a glob that matches nothing: silence would look like success.
        """
        chosen: dict[str, Stage] = {}
        for glob in globs:
            found = [s for s in self.stages if matches(s, glob)]
            if not found:
                names = [n for s in self.stages for n in (s.kind, s.slug, s.key, s.name)]
                guess = closest(glob, names)
                raise UsageError(
                    f"--only {glob}: matches no stage of {self.sweep.spec.name}"
                    + (f"  did you mean '{guess}'?" if guess else ""),
                    hint="saectl plan lists them",
                )
            chosen.update({s.name: s for s in found})
        return [s for s in self.stages if s.name in chosen]

    def upstream(self, stages: Iterable[Stage]) -> list[Stage]:
        """`stages` and everything they need, in order."""
        wanted: set[str] = set()

        def visit(stage: Stage) -> None:
            if stage.name not in wanted:
                wanted.add(stage.name)
                for dep in stage.deps.values():
                    visit(dep)

        for s in stages:
            visit(s)
        return [s for s in self.stages if s.name in wanted]


def _twins(train: Stage, trains: Iterable[Stage]) -> list[Stage]:
    """Those of `trains` that differ from `train` in their seed alone, by key."""
    want = _but_for_its_seed(train)
    found = [t for t in trains if t.key != train.key and _but_for_its_seed(t) == want]
    return sorted(found, key=lambda t: t.key)


def _but_for_its_seed(train: Stage) -> object:
    if not isinstance(train.work, TrainWork):
        return train.key  # which seed an imported SAE has is not known
    known = {**identity(train.work.train), "seed": None}
    return known, {role: dep.key for role, dep in train.deps.items()}


def matches(stage: Stage, glob: str) -> bool:
    """Whether a glob names this stage."""
    names = (stage.name, f"{stage.kind}/{stage.slug}", stage.slug, stage.kind, stage.key)
    return any(fnmatch.fnmatchcase(n, glob) for n in names)


def build(sweep: Sweep) -> Graph:
    """The stages of a pinned sweep."""
    spec = sweep.spec
    graph = Graph(sweep)
    made: dict[tuple[Kind, str], Stage] = {}

    def stage(
        kind: Kind, name: str, work: Work, deps: Mapping[str, Stage], facts: ModelFacts | None
    ) -> Stage:
        key = key_of(
            kind, VERSIONS[kind], identity(work), {role: d.key for role, d in deps.items()}
        )
        return made.setdefault((kind, key), Stage(kind, slug(name), key, work, deps, facts))

    def tokens(model: ModelSpec, facts: ModelFacts | None) -> Stage:
        plain = {"dtype": "float32", "attn_implementation": "sdpa", "compile": False}
        reader = model.model_copy(update={**plain, "device_map": None, "reinit": None})
        name = f"{model_slug(reader)}.c{spec.data.context}.{amount(spec.data.tokens)}"
        packed = spec.data.model_copy(update={"mask": MaskSpec(first_positions=first)})
        return stage("tokens", name, TokensWork(model=reader, data=packed), {}, facts)

    def capture(cell: Cell, site: Site, text: Stage) -> Stage:
        place = (cell.model, cell.layer, site)
        if place not in captures:
            captures[place] = new_capture(cell, site, text)
        return captures[place]

    def new_capture(cell: Cell, site: Site, text: Stage) -> Stage:
        model = sweep.models[cell.model]
        work = CacheWork(
            model=model, layer=cell.layer, site=site, cache=spec.cache, mask=spec.data.mask
        )
        name = f"{model_slug(model)}.L{cell.layer}.{site}"
        return stage("cache", name, work, {"tokens": text}, sweep.facts[cell.model])

    wandb = spec.wandb
    if wandb is not None:
        wandb = wandb.model_copy(update={"group": wandb.group or spec.name})
    first = spec.data.mask.first_positions  # all of the mask that packing knows
    evals: dict[str, Stage] = {}
    texts: dict[str, Stage] = {}
    captures: dict[tuple[str, int, Site], Stage] = {}
    for cell in sweep.cells:
        model, facts = sweep.models[cell.model], sweep.facts[cell.model]
        if cell.model not in texts:
            texts[cell.model] = tokens(model, facts)
        text = texts[cell.model]
        cache = capture(cell, cell.site, text)
        inputs = {"cache": cache, "tokens": text}
        if cell.out_site is not None:
            inputs["target"] = capture(cell, cell.out_site, text)
        name = f"{cache.slug}.{train_slug(cell.train)}"
        train = stage("train", name, sae_work(cell.train, wandb), inputs, facts)
        score = stage("eval", name, EvalWork(eval=spec.eval), {"train": train, **inputs}, facts)
        evals[score.key] = score
        graph.cells.append((cell, train))
    release_deps: dict[str, Stage] = {}
    trains, studies = [score.deps["train"] for score in evals.values()], spec.studies.asked()
    for score in evals.values():
        train = score.deps["train"]
        release_deps |= {
            f"{role}/{train.key}": d for role, d in {**score.deps, "eval": score}.items()
        }
        for asked in studies:
            twins = _twins(train, trains) if asked.study in COMPARING else []
            inputs = {**score.deps, **{f"twin/{twin.key}": twin for twin in twins}}
            release_deps[f"study/{train.key}/{asked.study}"] = stage(
                "study", f"{train.slug}.{asked.study}", StudyWork(study=asked), inputs, train.facts
            )
    stage(
        "release", spec.name, ReleaseWork(name=spec.name, release=spec.release), release_deps, None
    )
    graph.stages = sorted(made.values(), key=lambda s: KINDS.index(s.kind))
    return graph


def model_slug(model: ModelSpec) -> str:
    """A model's name as it stands in folder names."""
    if model.builtin is not None:
        return model.builtin + model.anew
    name = model.hf or model.path or ""
    return slug(name.rstrip("/").rsplit("/", 1)[-1].lower() + model.anew)


def sae_work(sae: Sae, wandb: WandbSpec | None) -> TrainWork | ImportWork:
    """What a stage of the kind `train` does for a cell."""
    return (
        ImportWork(sae=sae) if isinstance(sae, ImportedSae) else TrainWork(train=sae, wandb=wandb)
    )


def train_slug(train: Sae) -> str:
    """An SAE's name within its site: architecture, width, and what `variant` says."""
    return ".".join([train.arch, f"w{train.width}", *variant(train)])


def variant(train: Sae) -> list[str]:
    """What tells SAEs of one architecture and width apart: sparsity, and what is unusual."""
    label, name = train.sparsity
    sparsity = getattr(train, name)
    parts = [] if sparsity is None else [f"{label}{sparsity:g}"]
    out_site = getattr(train, "out_site", None)
    if out_site is not None:
        parts.insert(0, f"to_{out_site}" + ("_skip" if getattr(train, "skip", False) else ""))
    if isinstance(train, ImportedSae):
        function = [] if train.function == "topk" else [train.function]
        return [*function, *parts, train.format, *([train.label] if train.label else [])]
    if train.lr is not None:
        parts.append(f"lr{train.lr:g}".replace("+", ""))
    if train.seed:
        parts.append(f"s{train.seed}")
    if train.data_seed is not None:
        parts.append(f"d{train.data_seed}")
    return parts


def amount(n: int) -> str:
    """A token count for people: 400k, 50M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.4g}{unit}"
    return str(n)
