"""`saectl gc`: frees activations that nothing needs any more. Shows first, deletes with --yes."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.output import FreeLine, GcOutput
from sae_cli.cli.session import open_sweeps, recorded
from sae_cli.errors import FAILED, OK, Blocked, SaectlError, StoreError
from sae_cli.plan.graph import Graph
from sae_cli.plan.place import folder
from sae_cli.store.layout import StageDir, Workspace, size_of
from sae_cli.store.records.evict import evict, half_evicted
from sae_cli.store.records.ledger import read_done
from sae_cli.store.records.space import told
from sae_cli.store.records.status import Status, state
from sae_cli.store.records.users import readers


def gc(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    yes: o.Yes = False,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """Free the activations whose every SAE is trained; records and statistics stay.

    Activations that a recorded sweep still needs, or a running training reads, are kept. Without
    SPEC, those that no sweep of the workspace names any more go too. What lies in a bucket is
    deleted there.
    """
    workspace = Workspace(store)
    done: dict[str, StageDir] = {}
    needed: set[str] = set()
    for opened in open_sweeps(spec, model, sets, workspace, online=False):
        _sort(opened.graph, workspace, done, needed)
    named = _needed_by_any(workspace, needed)
    if spec is None and model is None:
        done |= {p.key: p for p in workspace.stages("cache") if _finished(p)}
    unneeded = [place for key, place in done.items() if key not in needed]
    free = [place for place in unneeded if not readers(place, ["train"])]
    lines = [_line(place, place.key in named) for place in free]
    if json:
        freed, left = _free(free) if yes else (sum(line.bytes for line in lines), [])
        gone = tuple(line for line in lines if line.key not in left)
        print(GcOutput(freed=yes, bytes=freed, stages=gone).model_dump_json(indent=2))
        return FAILED if left else OK
    if not free:
        print("nothing to free")
        return OK
    render.table(
        ["activations", "key", "size", ""],
        [
            (x.slug, x.key, told(x.bytes), x.url or ("" if x.named else "no sweep names it"))
            for x in lines
        ],
        right=["size"],
    )
    if not yes:
        print(f"would free {told(sum(x.bytes for x in lines))}; say --yes to do it")
        return OK
    freed, left = _free(free)
    print(f"freed {told(freed)}")
    return FAILED if left else OK


def free_unneeded(
    graph: Graph, workspace: Workspace, kept: Collection[str], given_up: Collection[str] = ()
) -> list[str]:
    """Free activations of a sweep that nothing of the workspace needs, but for those named `kept`.

    Trainings named in `given_up` need none: they failed. Returns the names of activations that
    somebody is freeing, or at, just now. Raises StoreError when some can't be deleted.
    """
    done: dict[str, StageDir] = {}
    needed = {s.key for s in graph.of("cache") if s.name in kept}
    _sort(graph, workspace, done, needed, given_up)
    _needed_by_any(workspace, needed, given_up)
    busy = []
    for key, place in done.items():
        if key not in needed:
            try:
                evict(place, place.activation_data)
            except Blocked:
                busy.append(f"{place.kind}/{place.path.name}")
    return busy


def _needed_by_any(
    workspace: Workspace, needed: set[str], given_up: Collection[str] = ()
) -> dict[str, StageDir]:
    """Adds to `needed` what any recorded sweep still reads; returns what they name and is done."""
    named: dict[str, StageDir] = {}
    for path in recorded(workspace):
        try:
            (opened,) = open_sweeps(path, None, None, workspace, online=False)
        except SaectlError as e:
            raise SaectlError(
                f"{path} can't be opened, so what it needs is not known: {e.what}",
                hint=f"mend it, or delete {path.parent} to forget that sweep",
            ) from e
        _sort(opened.graph, workspace, named, needed, given_up)
    return named


def _free(places: Sequence[StageDir]) -> tuple[int, list[str]]:
    """Free these activations; returns the bytes freed, and the keys of those that had to stay."""
    freed, left = 0, []
    for place in places:
        try:
            freed += evict(place, place.activation_data)
        except (StoreError, Blocked) as error:
            left.append(place.key)
            print(f"error: not freed: {error}", file=sys.stderr)
    return freed, left


def _line(place: StageDir, named: bool) -> FreeLine:
    from sae_cli.store.buckets.locate import data_url  # numpy comes with it

    url, done = data_url(place.path), read_done(place)
    here = sum(size_of(p) for p in place.activation_data)
    there = 0 if url is None or done is None else int(done.summary.get("bytes", 0))
    return FreeLine(
        slug=place.slug, key=place.key, path=str(place), url=url, bytes=here + there, named=named
    )


def _sort(
    graph: Graph,
    workspace: Workspace,
    done: dict[str, StageDir],
    needed: set[str],
    given_up: Collection[str] = (),
) -> None:
    """Adds to `done` the activations of a sweep that are finished, or half deleted, and to `needed`
    those it still reads."""
    for stage in graph.of("cache"):
        place = folder(workspace, stage)
        if _finished(place):
            done[stage.key] = place
        readers = [
            s for s in graph.dependants(stage) if s.kind == "train" and s.name not in given_up
        ]
        if any(state(folder(workspace, s)).status is not Status.DONE for s in readers):
            needed.add(stage.key)


def _finished(place: StageDir) -> bool:
    return state(place).status is Status.DONE or half_evicted(place)
