"""The arrays of a capture, shared by all who run it: begun once, then cut into parts to claim.

An array is begun by whoever comes first: its metadata say what the rows will be, and the norm above
which a row is an outlier. Its parts are ranges of shards. Who captures several arrays claims their
parts together and in one order, so that two processes share the text, not the arrays, and never
wait for each other.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from sae_cli.errors import Blocked, StoreError
from sae_cli.lm.sites import Tap
from sae_cli.spec.base import identity
from sae_cli.spec.stages import CacheSpec, MaskSpec
from sae_cli.stages.passes import Passes, outlier_limits
from sae_cli.stages.task import Task
from sae_cli.store.acts.array import ActivationReader, ArrayPlan, declare, declared
from sae_cli.store.atomic import explained
from sae_cli.store.buckets.locate import data_files
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import is_held
from sae_cli.store.records.ledger import former_summary, is_done
from sae_cli.store.tables.chunks import Table
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import read_entries
from sae_cli.store.tables.writer import declare_columns

DECLARING = "declaring"
"""The part that is held while an array is begun: whoever begins it finds its outlier limit."""
_CLAIMING = 1.0
"""Seconds within which a process claims its arrays' parts."""


@dataclass(frozen=True)
class Array:
    """One array of the job, begun on disk."""

    task: Task
    tap: Tap
    plan: ArrayPlan
    table: Table
    part_rows: int
    attrs: dict[str, object]
    there: set[int] = field(default_factory=set)
    """Shards that were seen to be committed."""

    @property
    def limit(self) -> float | None:
        """The norm above which a row is an outlier."""
        limit = self.attrs["outlier_norm"]
        assert limit is None or isinstance(limit, float)
        return limit

    def parts(self) -> Iterator[range]:
        """The rows of each part."""
        for first in range(0, self.plan.rows, self.part_rows):
            yield range(first, min(first + self.part_rows, self.plan.rows))

    def part(self, rows: range) -> range | None:
        """The shards of the part that is `rows`, or None if none is."""
        whole = rows.start % self.part_rows == 0
        if not whole or rows.stop != min(rows.start + self.part_rows, self.plan.rows):
            return None
        return range(rows.start // self.plan.shard_rows, -(-rows.stop // self.plan.shard_rows))

    def has(self, part: range) -> bool:
        """Whether all shards of a part are committed."""
        if not self.there.issuperset(part):
            self.there.update(e["k"] for e in read_entries(data_files(self.task.out)))
        return self.there.issuperset(part)

    def committed_rows(self) -> int:
        """Rows that are committed, by whomever."""
        return sum(e["rows"] for e in read_entries(data_files(self.task.out)))

    def missing_bytes(self) -> int:
        """Bytes of the shards that are not committed yet."""
        there = {e["k"] for e in read_entries(data_files(self.task.out))}
        return sum(
            self.table.file_size(column, s)
            for s in range(self.table.n_shards)
            if s not in there
            for column in self.table.columns
        )


def begin(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    taps: Sequence[Tap],
    spec: CacheSpec,
    passes: Passes,
    policy: MaskSpec,
) -> list[Array]:
    """Declare the arrays that nobody declared yet, with the outlier limits of this model here, or
    those that were found when they were captured before (what is made anew is what it was).

    Waits while another process is at that. Returns them in the order of their folders, without
    those that others have finished by now.
    """
    with ExitStack() as stack:
        here: list[tuple[Task, Tap]] = []
        # in one order by all, or two processes wait for each other
        for task, tap in sorted(zip(tasks, taps, strict=True), key=lambda one: one[0].out):
            if _entered(stack, task):
                here.append((task, tap))
        known = [
            declared(data_files(task.out)) or former_summary(StageDir(task.out)) for task, _ in here
        ]
        new = [tap for (_, tap), found in zip(here, known, strict=True) if found is None]
        limits = iter(outlier_limits(model, new, passes, policy))
        arrays = []
        for (task, tap), found in zip(here, known, strict=True):
            limit = next(limits) if found is None else found.get("outlier_norm")
            array = _planned(task, tap, spec, passes, limit)
            _declare(array)
            arrays.append(array)
    return arrays


def _planned(task: Task, tap: Tap, spec: CacheSpec, passes: Passes, limit: float | None) -> Array:
    """An array as the spec wants it; `limit` is the norm above which a row is an outlier."""
    shape = (tap.dim, passes.context, passes.rows)
    plan = ArrayPlan(
        passes.rows, tap.dim, spec.chunk_rows(*shape), spec.shard_rows(*shape), spec.dtype
    )
    tokens = task.deps["tokens"]
    about = {
        "key": task.key,
        "tokens": f"../../tokens/{tokens.path.name}/train.zarr",
        "work": identity(task.work),
        "layer": tap.layer,
        "site": tap.site,
        "module": tap.name,
        "context": passes.context,
        "outlier_norm": limit,
    }
    return Array(task, tap, plan, plan.table(), spec.part_rows(*shape), about)


def _declare(array: Array) -> None:
    """Begin an array on disk, or make sure that what is there is the same."""
    files = data_files(array.task.out)
    if declared(files) is None:
        declare_columns(files, array.table)  # refuses what another plan left
        statistics = StageDir(array.task.out).stats  # of rows that are made anew
        with explained(statistics, "delete"):
            statistics.unlink(missing_ok=True)
    declare(files, array.table, array.plan.attrs(array.attrs))


def _entered(stack: ExitStack, task: Task) -> bool:
    """Hold the beginning of a task's array until `stack` is closed; False if it is done by now,
    and perhaps freed."""
    while True:
        try:
            stack.enter_context(task.part(DECLARING))
            return True
        except Blocked:
            place = StageDir(task.out)
            if is_done(place) or place.evicted.exists():
                return False
        task.leave("its beginning")
        time.sleep(0.2)


def claimed(
    stack: ExitStack, arrays: Sequence[Array], rows: range, wholly: bool
) -> list[tuple[Array, range]]:
    """Claim the part `rows` of each array that lacks any of it, until `stack` is closed.

    `wholly`: none of them unless all, in their order: who gets the first gets the others. Who does
    not insist on that waits a moment for those that are not free: another process may just be
    claiming them, one by one, to capture them together.
    """
    wanted = [(a, part) for a in arrays if (part := a.part(rows)) and not a.has(part)]
    with ExitStack() as mine:
        try:
            for array, part in wanted:
                mine.enter_context(array.task.part(_name(part)))
            stack.enter_context(mine.pop_all())
            return wanted
        except Blocked:
            if wholly:
                return []
    time.sleep(_CLAIMING)
    found = []
    for array, part in wanted:
        with suppress(Blocked):
            stack.enter_context(array.task.part(_name(part)))
            found.append((array, part))
    return found


def taken(task: Task, reader: ActivationReader | None, spec: CacheSpec) -> bool:
    """Whether each part of the task's array is written, or held by another process."""
    if reader is None:
        return False
    table, there = reader.table.table, reader.table.commits
    size = spec.part_rows(reader.d, int(reader.attrs["context"]), table.rows) // table.shard_rows
    parts = [range(s, min(s + size, table.n_shards)) for s in range(0, table.n_shards, size)]
    open_ = [part for part in parts if any(s not in there for s in part)]
    return all(is_held(StageDir(task.out), _name(part)) for part in open_)


def check_room(arrays: Sequence[Array]) -> None:
    """Raises StoreError when the disk has no room for what is still to be written."""
    local = [a for a in arrays if isinstance(data_files(a.task.out), LocalFiles)]
    if not local:
        return
    place = local[0].task.out
    need, free = sum(a.missing_bytes() for a in local), shutil.disk_usage(place).free
    if need > free:
        raise StoreError(
            f"{_gigabytes(need)} of activations are still to be written, and the disk of {place} "
            f"has {_gigabytes(free)} free: {_gigabytes(need - free)} are missing",
            hint="free some space (saectl gc), send them to a bucket (cache.store), or store less: "
            "cache.dtype int8, fewer data.tokens, fewer sites at a time (--only)",
        )


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:,.2f} GB"


def _name(part: range) -> str:
    return f"{part.start:06d}-{part.stop:06d}"
