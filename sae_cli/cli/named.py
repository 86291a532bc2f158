"""Which SAE a command line means: one of the workspace, or a folder from anywhere.

In a workspace an SAE has the model of the sweep that made it, wherever that lies. A folder from
elsewhere (a release, or one SAE of it) has a record alone, and is held to `run.recorded`'s rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_cli.cli.session import open_sweeps, recorded
from sae_cli.errors import SaectlError, StoreError, UsageError
from sae_cli.plan.graph import Stage
from sae_cli.plan.pin import digest
from sae_cli.run.recorded import recorded_model
from sae_cli.spec.problems import closest
from sae_cli.spec.stages import MaskSpec, ModelSpec
from sae_cli.spec.work import CacheWork
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.ledger import is_done, read_done
from sae_cli.store.releases import MANIFEST, read_manifest

CFG, METRICS = "cfg.json", "metrics.json"


@dataclass(frozen=True)
class Named:
    """An SAE, and what is needed to watch it at work."""

    name: str
    """`slug-key` of its training, or its folder's name in a release."""
    folder: Path
    own: Mapping[str, Any]
    """What it says of itself: `metadata.saectl` of its cfg.json."""
    model: ModelSpec
    limit: float | None
    """Norm above which a token is an outlier and does not count, at the site that it reads. None
    where its mask knows no outliers, or the norm is not known here."""

    @property
    def limit_unknown(self) -> bool:
        """Whether its mask leaves outliers out, and from what norm on is not known here."""
        return self.limit is None and self.own["mask"].get("outlier_multiple") is not None


def named_sae(name: str, workspace: Workspace, model: str | None = None) -> Named:
    """The one SAE that `name` means: a folder, or a name or key of the workspace.

    `model` is a folder that holds the model, for a folder whose record can't say where it is.
    Raises UsageError where it means none, or more than one.
    """
    found = named_saes(name, workspace, model)
    if len(found) > 1:
        release = Path(name).is_dir()
        names = "\n  ".join(str(each.folder) if release else each.name for each in found)
        raise UsageError(f"{name} means more than one SAE, name one:\n  {names}")
    return found[0]


def named_saes(name: str | None, workspace: Workspace, model: str | None = None) -> list[Named]:
    """All that `name` means: an SAE's folder, those of a release's folder, those of a workspace's
    folder, or those of `workspace` whose name or key begins so; without a name, all of these.

    Raises UsageError where it means none.
    """
    path = None if name is None else Path(name)
    if path is not None and path.is_dir():
        if (path / CFG).is_file():
            return [_at(path, model)]
        if (path / MANIFEST).is_file():
            saes = read_manifest(path).record.get("saes", ())
            return [_of_folder(path / each, model) for each in saes]
        workspace, name = Workspace(path), None
        if not recorded(workspace):
            raise UsageError(
                f"{path} holds no SAE: it is no SAE's folder ({CFG}), no release ({MANIFEST}), and "
                "no workspace that a sweep was run in"
            )
    there = _trained(workspace) if recorded(workspace) else []
    chosen = there if name is None else _meant(name, there)
    if chosen:
        return [_of_stage(place, stage, model) for place, stage in chosen]
    if name is None:
        raise UsageError(
            f"no SAE in {workspace.root} is trained",
            hint="saectl run sweeps/tiny.yaml trains some",
        )
    guess = closest(name, [n for place, _ in there for n in (place.slug, place.path.name)])
    raise UsageError(
        f"{name}: no trained SAE in {workspace.root} is called so, and no folder"
        + (f"  did you mean '{guess}'?" if guess else ""),
        hint="saectl ls train lists them; --store DIR is another workspace"
        if there
        else "saectl run sweeps/tiny.yaml trains some; --store DIR is another workspace",
    )


def _meant(name: str, there: Sequence[tuple[StageDir, Stage]]) -> list[tuple[StageDir, Stage]]:
    """Those that are called so; where none is, those whose name or key begins so."""
    exact = [each for each in there if name in (each[0].slug, each[0].path.name, each[0].key)]
    return exact or [
        each
        for each in there
        if any(known.startswith(name) for known in (each[0].path.name, each[0].key))
    ]


def _trained(workspace: Workspace) -> list[tuple[StageDir, Stage]]:
    """The finished trainings (and imports) of every sweep that the workspace has run."""
    found: dict[str, tuple[StageDir, Stage]] = {}
    for opened in open_sweeps(None, None, None, workspace, online=False):
        for stage in opened.graph.of("train"):
            place = workspace.stage_dir("train", stage.slug, stage.key)
            if is_done(place):
                found.setdefault(stage.key, (place, stage))
    return list(found.values())


def _at(path: Path, model: str | None) -> Named:
    """The SAE of a folder; of one in a workspace, that knows more than the folder's record."""
    here = path.resolve()
    there = []
    if here.parent.name == "train" and recorded(Workspace(here.parents[1])):
        with suppress(SaectlError):  # a sweep whose model has moved can't be opened
            there = _trained(Workspace(here.parents[1]))
    for place, stage in there:
        if place.path.resolve() == here:
            return _of_stage(place, stage, model)
    return _of_folder(path, model)


def _of_stage(place: StageDir, stage: Stage, model: str | None) -> Named:
    cache = stage.deps["cache"]
    assert isinstance(cache.work, CacheWork)
    done = read_done(StageDir(place.path.parents[1] / cache.name))
    limit = None if done is None else done.summary["outlier_norm"]
    own, spec = _own(place.path), cache.work.model
    if model is not None:
        spec = _read_from(place.path, own, model)
    elif spec.path is not None and spec.digest not in (None, digest(Path(spec.path))):
        raise StoreError(
            f"{spec.path} is not the model that {place.path.name} was trained on: its files have "
            "changed",
            hint="bring back the files, or say where they are with --model PATH",
        )
    return Named(place.path.name, place.path, own, spec, limit)


def _of_folder(path: Path, model: str | None) -> Named:
    own = _own(path)
    spec = _read_from(path, own, model)
    record = read_json(path / METRICS)
    limit = record.get("outlier_norm") if isinstance(record, dict) else None
    if own.get("out_site"):
        limit = None  # that of the site that it predicts, where it is judged
    return Named(path.resolve().name, path, own, spec, limit)


def _read_from(path: Path, own: Mapping[str, Any], model: str | None) -> ModelSpec:
    try:
        spec = recorded_model(own, model)
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path / CFG} names no model that can be read") from error
    if isinstance(spec, str):
        raise UsageError(f"{path}: {spec}")
    return spec


def _own(path: Path) -> Mapping[str, Any]:
    cfg = read_json(path / CFG)
    try:
        own: Mapping[str, Any] = cfg["metadata"]["saectl"]
        own["model"], own["layer"], own["site"]
        MaskSpec.model_validate(own["mask"])
    except (KeyError, TypeError, ValidationError) as error:
        raise StoreError(
            f"{path} holds no SAE that saectl wrote: its {CFG} does not say what it reads",
            hint="bring SAEs of other projects in with saectl import",
        ) from error
    return own


def by_model(saes: Sequence[Named]) -> list[list[Named]]:
    """SAEs that read one model together, in the order of their first."""
    groups: dict[str, list[Named]] = {}
    for each in saes:
        groups.setdefault(each.model.model_dump_json(), []).append(each)
    return list(groups.values())
