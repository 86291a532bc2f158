"""`saectl gc`: frees activations that nothing needs any more. Shows first, deletes with --yes."""

from __future__ import annotations

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.session import open_sweeps, recorded
from sae_cli.errors import OK
from sae_cli.plan.graph import Graph
from sae_cli.plan.place import folder
from sae_cli.store.layout import StageDir, Workspace, size_of
from sae_cli.store.ledger import evict
from sae_cli.store.status import Status, state


def gc(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    yes: o.Yes = False,
    verbose: o.Verbose = False,
) -> int:
    """Free the activations whose every SAE is trained; records and statistics stay.

    Activations that any recorded sweep still needs are kept. Without SPEC, those that no sweep
    of the workspace names any more go too.
    """
    workspace = Workspace(store)
    done: dict[str, StageDir] = {}
    needed: set[str] = set()
    for opened in open_sweeps(spec, model, sets, workspace, online=False):
        _sort(opened.graph, workspace, done, needed)
    named: dict[str, StageDir] = {}
    for path in recorded(workspace):
        (opened,) = open_sweeps(path, None, None, workspace, online=False)
        _sort(opened.graph, workspace, named, needed)
    if spec is None and model is None:
        done |= {p.key: p for p in workspace.stages("cache") if state(p).status is Status.DONE}
    free = [place for key, place in done.items() if key not in needed]
    sizes = [sum(size_of(p) for p in place.activation_data) for place in free]
    if not free:
        print("nothing to free")
        return OK
    render.table(
        ["activations", "key", "size", ""],
        [
            (p.slug, p.key, render.size(n), "" if p.key in named else "no sweep names it")
            for p, n in zip(free, sizes, strict=True)
        ],
        right=["size"],
    )
    if not yes:
        print(f"would free {render.size(sum(sizes))}; say --yes to do it")
        return OK
    freed = sum(evict(place, place.activation_data) for place in free)
    print(f"freed {render.size(freed)}")
    return OK


def _sort(graph: Graph, workspace: Workspace, done: dict[str, StageDir], needed: set[str]) -> None:
    """Adds to `done` the finished activations of a sweep, to `needed` those it still reads."""
    for stage in graph.of("cache"):
        place = folder(workspace, stage)
        if state(place).status is Status.DONE:
            done[stage.key] = place
        readers = [s for s in graph.dependants(stage) if s.kind == "train"]
        if any(state(folder(workspace, s)).status is not Status.DONE for s in readers):
            needed.add(stage.key)
