"""What `verify --repair` does with a damaged stage: does it again, as little of it as can be.

Of activations only the damaged shards are captured again; of a record of which another copy is
sound, nothing at all. Any other stage is done anew. What came out is compared, by its digest, with
what the record said before. An unfinished array is not finished by this: its damaged shards are
withdrawn, and captured with the rest. Nothing is deleted before what the stage reads was found to
be readable, and nothing that another workspace put into a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sae_cli.cli.progress import Bars, Lines
from sae_cli.cli.session import Opened, open_sweeps, recorded
from sae_cli.errors import SaectlError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.place import folder
from sae_cli.plan.reason import explain
from sae_cli.run import inline
from sae_cli.run.context import Context
from sae_cli.run.opening import check_sources
from sae_cli.store.buckets.locate import data_files
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records import mend
from sae_cli.store.records.claim import claim
from sae_cli.store.records.evict import refuse_foreign
from sae_cli.store.records.ledger import keep_record, read_done
from sae_cli.store.records.verify import Check, under_repair
from sae_cli.store.tables.journal import withdraw

Verdict = Literal["repaired", "changed", "not repaired"]
_ROUNDS = 4
"""Checks of a stage whose metadata had to be put right before its shards could be seen."""


@dataclass(frozen=True)
class Outcome:
    """What came of a repair."""

    verdict: Verdict
    why: str


class Repairer:
    """Repairs stages of a workspace, each with the sweep that made it.

    `opened` are the sweeps that the user named; those that the workspace remembers come after them.
    """

    def __init__(
        self,
        workspace: Workspace,
        opened: Sequence[Opened],
        report: Lines | Bars,
        stop: Callable[[], bool],
        again: Callable[[StageDir], Check],
    ) -> None:
        """`again(stage)` checks a stage once more."""
        self._workspace, self._report, self._stop, self._again = workspace, report, stop, again
        self._graphs = [one.graph for one in opened]
        self._unread = [
            *recorded(workspace),
            *sorted(workspace.root.glob("runs/*/earlier-*.json")),
        ]

    def repair(self, found: Check) -> Outcome:
        """Repair what was found of a stage; raises Interrupted when a stop was asked for."""
        place = found.stage
        try:
            refuse_foreign(place)
            if place.kind == "cache" and not (place.done.exists() or under_repair(place)):
                return _withdraw(found)
        except SaectlError as error:
            return Outcome("not repaired", error.what)
        here = self._stage(found.stage)
        if here is None:
            return Outcome(
                "not repaired",
                "no sweep of the workspace names this stage; give the SPEC that made it",
            )
        graph, stage = here
        try:
            if stage.kind == "cache":
                return self._recapture(found, graph, stage)
            return self._anew(found.stage, graph, stage)
        except _Failed as failed:
            return Outcome("not repaired", str(failed))

    def _recapture(self, found: Check, graph: Graph, stage: Stage) -> Outcome:
        """Capture the damaged shards of an array again."""
        done: list[str] = []
        for _ in range(_ROUNDS):
            if not found.flaws and found.stage.done.exists():
                break
            try:
                if mend.mend(found):
                    done.append("records put back from their copies")
                    found = self._again(found.stage)
                    continue
                if found.flaws:
                    check_sources(stage, self._context(graph, set()))
                    with claim(found.stage):
                        keep_record(found.stage)
                    mend.withdraw_damage(found)
            except SaectlError as error:
                raise _Failed(error.what) from error
            shards = {f.shard for f in found.flaws if f.shard is not None}
            if shards:
                done.append(f"{len(shards)} shard{'s' if len(shards) > 1 else ''} captured again")
            self._run(graph, stage, set())
            if not found.blind:
                break
            found = self._again(found.stage)
        said = ", ".join(dict.fromkeys(done)) or "finished"
        if not under_repair(found.stage):
            return Outcome("repaired", f"{said}: same bytes")
        return self._told(mend.compared(found.stage), said, graph, stage)

    def _anew(self, place: StageDir, graph: Graph, stage: Stage) -> Outcome:
        """Do a stage again from its beginning."""
        try:
            old = read_done(place)
        except SaectlError:
            old = None
        self._report.note(f"{stage.name} is damaged and is done anew")
        self._run(graph, stage, {stage.name})
        new = read_done(place)
        same = None if old is None or new is None else old.sha256 == new.sha256
        return self._told(same, "done anew", graph, stage)

    def _told(self, same: bool | None, said: str, graph: Graph, stage: Stage) -> Outcome:
        if same:
            return Outcome("repaired", f"{said}: same bytes")
        if same is None:
            return Outcome(
                "changed", f"{said}: its record was lost, so there was nothing to compare with"
            )
        readers = [
            s.name for s in graph.dependants(stage) if folder(self._workspace, s).done.exists()
        ]
        more = f"; made from the old ones: {', '.join(readers)}" if readers else ""
        return Outcome(
            "changed",
            f"{said}, but this machine gives other bits than the record says (other hardware, "
            f"thread count or library versions){more}",
        )

    def _run(self, graph: Graph, stage: Stage, force: set[str]) -> None:
        (row,) = explain(graph, self._workspace, [stage], force)
        if row.action == "blocked":
            raise _Failed(row.reason)
        for result in inline.run([stage], self._context(graph, force)):
            if result.ending not in ("done", "skipped"):
                raise _Failed(result.cause or result.ending)

    def _context(self, graph: Graph, force: set[str]) -> Context:
        spec = graph.sweep.spec
        return Context(
            self._workspace, self._report, spec.device, self._stop, force, memory=spec.memory
        )

    def _stage(self, place: StageDir) -> tuple[Graph, Stage] | None:
        """The stage whose folder this is, in the first sweep that has it."""
        read = 0
        while True:
            for graph in self._graphs[read:]:
                for stage in graph.of(place.kind):  # type: ignore[arg-type]
                    if stage.key == place.key:
                        return graph, stage
            read = len(self._graphs)
            if not self._unread:
                return None
            self._read(self._unread.pop(0))

    def _read(self, path: Path) -> None:
        try:
            found = open_sweeps(path, None, None, self._workspace, online=False)
        except SaectlError as error:
            self._report.note(f"left out: sweep {path}: {error.what}")
            return
        self._graphs += [one.graph for one in found]


def _withdraw(found: Check) -> Outcome:
    """Make the damaged shards of an unfinished array uncommitted: who goes on captures them."""
    place = found.stage
    go_on = f"saectl cache SPEC --only {place.key}"
    if found.blind:
        what = next(flaw.what for flaw in found.flaws if flaw.shard is None)
        return Outcome("not repaired", f"{what}; it is unfinished: {go_on} --force begins anew")
    shards = {flaw.shard for flaw in found.flaws if flaw.shard is not None}
    with claim(place):
        withdraw(data_files(place.path), shards)
    many = f"{len(shards)} shard{'s' if len(shards) > 1 else ''}"
    return Outcome("repaired", f"{many} withdrawn; it is unfinished: {go_on} goes on")


class _Failed(Exception):
    """A repair that could not be made, and why."""
