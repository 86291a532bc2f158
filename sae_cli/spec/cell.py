"""One cell of a sweep: what the matrix and `train` say of it, made whole and checked.

It refuses a layer that the model has not, a field of another architecture, and sizes that do not
fit each other, and points at the line that said it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sae_cli.spec.imported import IMPORTED, SAES, ImportedSae, Sae
from sae_cli.spec.models import local, missing
from sae_cli.spec.presets import ModelFacts
from sae_cli.spec.problems import Loc, Problem, SpecProblems, from_validation
from sae_cli.spec.stages import FORWARD, Site
from sae_cli.spec.train import ARCHITECTURES

Facts = Callable[[str, Loc], ModelFacts | None]
_PLACE = ("model", "layer", "depth", "site")
SITE: Site = "resid_post"
ARCH = "topk"
EXPANSION = 8
"""What a cell is when neither the matrix nor `train` says."""
LOW_RANK_SITE: Site = "attn_out"
"""Whose activations fill only part of their space, so that latents start in that part."""


@dataclass(frozen=True)
class Cell:
    """One SAE of a sweep: what it reads, and how it is trained or where it is read from
    (`train.width` is resolved)."""

    model: str
    layer: int
    site: Site
    train: Sae

    @property
    def out_site(self) -> Site | None:
        """What is predicted, where that is another site than the one that is read."""
        return getattr(self.train, "out_site", None)


@dataclass
class Draft:
    """A cell under construction: each value with the place in the file that gave it."""

    values: dict[str, Any]
    places: dict[str, Loc]
    origin: Loc


class Models:
    """The sizes of the models that cells name, each asked for once."""

    def __init__(self, facts: Facts, problems: list[Problem]) -> None:
        self._facts, self._problems = facts, problems
        self._sizes: dict[str, ModelFacts | None] = {}
        self._broken: set[str] = set()

    def sizes(self, model: str, loc: Loc) -> ModelFacts | None:
        """None when they are not known; that a model can't exist is noted at `loc`, once."""
        if model not in self._sizes:
            self._sizes[model] = None
            try:
                self._sizes[model] = self._facts(model, loc)
            except SpecProblems as e:
                self._broken.add(model)
                self._problems.extend(e.problems)
        return self._sizes[model]

    def unknown(self, model: str, loc: Loc, what: str, instead: str) -> None:
        """Note at `loc` that `what` needs sizes not known yet, unless the model can't exist."""
        if model not in self._broken:
            repo = model if "/" in model else "ORG/NAME"
            self._problems.append(
                Problem(
                    loc,
                    f"{what} needs the sizes of {model}, and no config.json on this machine says "
                    f"them: {instead}, or `hf download {repo} config.json`",
                    at="key" if loc == ("matrix",) else "value",
                )
            )


def finish(
    draft: Draft, shared: dict[str, Any], models: Models, problems: list[Problem]
) -> Cell | None:
    """The cell that `draft` and the `shared` fields of `train` make; None after noting why not."""
    values = draft.values
    model, site = values["model"], values.get("site", SITE)
    before = len(problems)
    size = models.sizes(model, draft.places["model"])
    layer = _layer(draft, size, models, problems)
    fields = {**shared, **{k: v for k, v in values.items() if k not in _PLACE}}
    if "width" in values or "expansion" in values:  # the matrix overrides either form
        for form in ("width", "expansion"):
            if form in shared and form not in values:
                del fields[form]
    if "path" in values and "path" in shared and "digest" not in values:  # those are other files
        fields.pop("digest", None)
    if isinstance(fields.get("digest"), dict):  # one for each layer of a folder
        by_layer, named = fields.pop("digest"), fields.get("file_layer")
        if digest := by_layer.get(str(layer if named is None else named)):
            fields["digest"] = digest
    places = {**{k: ("train", k) for k in shared}, **draft.places}
    arch = fields.setdefault("arch", ARCH)
    if site == LOW_RANK_SITE and arch != IMPORTED:
        fields.setdefault("decoder_init", "active_subspace")
    own = SAES[arch].model_fields
    problems += [_foreign(name, arch, places) for name in fields if name not in own]
    if len(problems) > before or layer is None:
        return None
    at_width = places.get("expansion", places.get("width", draft.origin))
    if fields.get("width") is None and arch != IMPORTED:
        by_default = fields.get("expansion") is None
        if size is None:
            what = f"the default width, {EXPANSION} x the input," if by_default else "expansion"
            models.unknown(model, at_width, what, "give width")
            return None
        factor = EXPANSION if by_default else fields["expansion"]
        fields.update(width=factor * size.d_in(site), expansion=None)
    try:
        train = SAES[arch](**fields)
    except ValidationError as e:
        for p in from_validation(e, {}):
            name = str(p.loc[0]) if p.loc else ""
            at = at_width if name in ("width", "expansion") else places.get(name, draft.origin)
            problems.append(Problem(at, p.what, p.suggestion))
        return None
    if isinstance(train, ImportedSae) and not train.digest and not local(train.path).is_dir():
        problems.append(Problem(places["path"], missing(train.path, "folder")))
        return None
    out_site = getattr(train, "out_site", None)
    if out_site is not None and FORWARD.index(out_site) <= FORWARD.index(site):
        problems.append(
            Problem(
                places.get("out_site", draft.origin),
                f"out_site {out_site} does not lie behind {site}: a transcoder predicts what comes "
                f"after its input; a layer goes {', '.join(FORWARD)}",
            )
        )
        return None
    k = getattr(train, "k", None)
    assert train.width is not None
    if k is not None and k > train.width:
        problems.append(
            Problem(places.get("k", at_width), f"k = {k} is more than the width, {train.width}")
        )
        return None
    return Cell(model, layer, site, train)


def _foreign(name: str, arch: str, places: dict[str, Loc]) -> Problem:
    """That a field belongs to other architectures than the one it meets."""
    trained = [a for a, spec in ARCHITECTURES.items() if name in spec.model_fields]
    owners = ", ".join(trained or [IMPORTED])
    said = f"{name} is a field of {owners}, not of {arch}"
    chosen = places.get("arch")
    if chosen is None:
        said += ", the default arch"
    elif chosen[0] == "matrix" and chosen[:-1] != places[name][:-1]:
        said += ": give it beside its arch, as an entry of matrix.sae"
    return Problem(places[name], said, at="key")


def _layer(
    draft: Draft, size: ModelFacts | None, models: Models, problems: list[Problem]
) -> int | None:
    values, places = draft.values, draft.places
    model = values["model"]
    if "depth" in values:
        if size is None:
            models.unknown(model, places["depth"], "depth", "give layer")
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
                f"layer {layer} is out of range: {model} has layers 0 to {size.n_layers - 1}",
            )
        )
        return None
    return layer
