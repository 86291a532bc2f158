"""From the words of a command line to pinned graphs: which sweeps, in which workspace."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_cli.errors import SaectlError, UsageError
from sae_cli.plan.graph import Graph, build
from sae_cli.plan.pin import Pins, fetch_sizes
from sae_cli.spec import load as loading
from sae_cli.store.atomic import read_json, write_json
from sae_cli.store.layout import Workspace

RECORD = "sweep.json"


@dataclass(frozen=True)
class Opened:
    """A sweep ready to be looked at or run."""

    graph: Graph
    unpinned: tuple[str, ...]
    """Hub names whose commit is not known yet; a run will pin them."""


def open_sweeps(
    spec: Path | None,
    model: str | None,
    sets: Sequence[str] | None,
    workspace: Workspace,
    *,
    online: bool,
    every: bool = False,
) -> list[Opened]:
    """The sweeps that a command means.

    SPEC names one; `--model` alone means the one that ships for that model; neither (or `--all`)
    means every sweep the workspace has run. Raises UsageError when that leaves none.
    """
    if workspace.root.exists() and not workspace.root.is_dir():
        raise UsageError(f"the workspace {workspace.root} is a file, not a folder")
    if spec is not None and every:
        raise UsageError("--all means every sweep of the workspace: leave out SPEC")
    if spec is not None:
        paths = [loading.find(spec)]
    elif model is not None and not every:
        paths = [loading.preset_sweep(model)]
    else:
        paths = recorded(workspace)
    if not paths:
        raise UsageError(
            f"no sweep given, and none was run in {workspace.root}",
            hint="give a sweep file: saectl run sweeps/tiny.yaml",
        )
    if spec is not None or (model is not None and not every):
        return [_open(p, model, sets or (), workspace, online=online) for p in paths]
    return _open_all(paths, model, sets or (), workspace, online=online)


def _open_all(
    paths: Sequence[Path],
    model: str | None,
    sets: Sequence[str],
    workspace: Workspace,
    *,
    online: bool,
) -> list[Opened]:
    """Recorded sweeps; one that can't be opened any more is told and does not stop the others."""
    opened, broken = [], []
    for path in paths:
        try:
            opened.append(_open(path, model, sets, workspace, online=online))
        except SaectlError as e:
            broken.append(SaectlError(f"sweep {path.parent.name} ({path}): {e.what}", hint=e.hint))
    if broken and not opened:
        raise broken[0]
    for error in broken:
        print(f"left out: {error}", file=sys.stderr)
    return opened


def _open(
    path: Path, model: str | None, sets: Sequence[str], workspace: Workspace, *, online: bool
) -> Opened:
    pins = Pins(workspace.root, online=online)
    fetch = fetch_sizes if online else None
    graph = build(pins.apply(loading.load(path, sets, model, fetch)))
    return Opened(graph, tuple(pins.unpinned))


def recorded(workspace: Workspace) -> list[Path]:
    """The sweeps that were run in this workspace, as they were then."""
    return sorted(workspace.root.glob(f"runs/*/{RECORD}"))


def recorded_words(graph: Graph, workspace: Workspace, sets: Sequence[str]) -> tuple[str, ...]:
    """The words of a command line that name this very sweep, whatever its name means later: a copy
    of what `remember` keeps is put aside under a digest of its content."""
    record = _plain(graph)
    name = f"sweep-{_digest(record)}.json"
    place = workspace.run_dir(graph.sweep.spec.name) / name
    if read_json(place) != record:
        write_json(place, record)
    return (str(place.resolve()), *(word for given in sets for word in ("--set", given)))


def remember(graph: Graph, workspace: Workspace) -> str | None:
    """Keep the pinned sweep beside its view, so that it can be named without its file.

    An earlier sweep of the same name is kept too, under another file name, which is returned:
    the workspace's records now mean the new one.
    """
    view = workspace.run_dir(graph.sweep.spec.name)
    view.mkdir(parents=True, exist_ok=True)
    record = _plain(graph)
    earlier = read_json(view / RECORD)
    if earlier == record:
        return None
    aside = None
    if earlier is not None:
        aside = f"earlier-{_digest(earlier)}.json"
        write_json(view / aside, earlier)
    write_json(view / RECORD, record)
    return aside


def _plain(graph: Graph) -> Any:
    """A pinned sweep as a sweep file holds it."""
    sweep = graph.sweep
    plain = sweep.spec.model_dump(mode="json", exclude_unset=True)
    plain["data"] = sweep.spec.data.model_dump(mode="json")
    plain["models"] = {
        name: model.model_dump(mode="json", exclude_none=True)
        for name, model in sweep.models.items()
    }
    return json.loads(json.dumps(plain))


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
