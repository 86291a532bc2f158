"""`saectl gc`: frees activations that nothing needs any more. Shows first, deletes with --yes."""

from __future__ import annotations

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.output import FreeLine, GcOutput
from sae_cli.cli.session import open_sweeps, recorded
from sae_cli.errors import OK
from sae_cli.plan.graph import Graph
from sae_cli.plan.place import folder
from sae_cli.store.layout import StageDir, Workspace, size_of
from sae_cli.store.ledger import evict, read_done
from sae_cli.store.space import told
from sae_cli.store.status import Status, state


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

    Activations that any recorded sweep still needs are kept. Without SPEC, those that no sweep
    of the workspace names any more go too. What lies in a bucket is deleted there.
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
    lines = [_line(place, place.key in named) for place in free]
    if json:
        freed = sum(evict(p, p.activation_data) for p in free) if yes else None
        size = sum(line.bytes for line in lines) if freed is None else freed
        said = GcOutput(freed=yes, bytes=size, stages=tuple(lines))
        print(said.model_dump_json(indent=2))
        return OK
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
    print(f"freed {told(sum(evict(place, place.activation_data) for place in free))}")
    return OK


def _line(place: StageDir, named: bool) -> FreeLine:
    from sae_cli.store.locate import data_url  # numpy comes with it

    url, done = data_url(place.path), read_done(place)
    here = sum(size_of(p) for p in place.activation_data)
    there = 0 if url is None or done is None else int(done.summary.get("bytes", 0))
    return FreeLine(
        slug=place.slug, key=place.key, path=str(place), url=url, bytes=here + there, named=named
    )


def _sort(graph: Graph, workspace: Workspace, done: dict[str, StageDir], needed: set[str]) -> None:
    """Adds to `done` the finished activations of a sweep, to `needed` those it still reads."""
    for stage in graph.of("cache"):
        place = folder(workspace, stage)
        if state(place).status is Status.DONE:
            done[stage.key] = place
        readers = [s for s in graph.dependants(stage) if s.kind == "train"]
        if any(state(folder(workspace, s)).status is not Status.DONE for s in readers):
            needed.add(stage.key)
