"""Token blocks to stored activations: one forward feeds every (layer, site) of a model.

The rows of an array fall into parts, and whoever runs this takes the next part that nobody holds:
start it on as many machines as there are. Which rows a forward reads depends on nothing but the
spec, so the array is the same, bit for bit, whoever captured what, and in whose company. The mask
is decided here, once, and stored with the rows: training and every metric read it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.errors import Blocked, ModelError, StoreError
from sae_cli.lm import masks
from sae_cli.lm.capture import Capture
from sae_cli.lm.check import check_layer
from sae_cli.lm.device import pick_device
from sae_cli.lm.flops import forward_flops, peak_flops
from sae_cli.lm.load import load_model
from sae_cli.lm.outliers import marked
from sae_cli.lm.sites import Tap, find_tap
from sae_cli.spec.base import identity
from sae_cli.spec.stages import CacheSpec, MaskSpec
from sae_cli.spec.work import CacheWork
from sae_cli.stages.pace import Pace
from sae_cli.stages.passes import Passes, outlier_limits
from sae_cli.stages.task import Task
from sae_cli.store.activations import ActivationReader, ArrayPlan, declare, declared, finish
from sae_cli.store.blocks import BlockReader
from sae_cli.store.chunks import Table
from sae_cli.store.claim import is_held
from sae_cli.store.files import LocalFiles
from sae_cli.store.journal import read_entries
from sae_cli.store.layout import StageDir
from sae_cli.store.locate import data_files, send_data
from sae_cli.store.recorder import Recorder
from sae_cli.store.strands import Lanes

DECLARING = "declaring"
"""The part that is held while an array is begun: whoever begins it finds its outlier limit."""


def run(tasks: Sequence[Task]) -> None:
    """Capture the activations of all tasks; they share a model, its tokens and the cache spec.

    Raises ModelError when the model can't be had or lacks a site, StoreError when the disk fails.
    """
    left = [task for task in tasks if not _complete(task.out)]
    if left:
        _capture(left)
    for task in tasks:
        _seal(task)


def _capture(tasks: Sequence[Task]) -> None:
    """Capture what is left of the tasks' arrays and held by nobody else."""
    works = [w for w in (t.work for t in tasks) if isinstance(w, CacheWork)]
    assert works and len(works) == len(tasks)
    spec, source = works[0].cache, tasks[0].deps["tokens"]
    if all(_taken(task, spec) for task in tasks):
        return  # before a model is loaded for nothing
    passes = Passes(BlockReader(source.path), spec.batch_tokens)
    model = load_model(works[0].model, pick_device(tasks[0].device))
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and passes.context > limit:
        raise ModelError(
            f"data.context is {passes.context}, but the model was made for {limit}",
            hint=f"--set data.context={limit}",
        )
    for layer in sorted({w.layer for w in works}):
        check_layer(model, layer)
    taps = [find_tap(model, w.layer, w.site) for w in works]
    for task in tasks:
        send_data(task.out, spec.store)
    arrays = _begin(model, tasks, taps, spec, passes, works[0].mask)
    _check_room(arrays)
    row_bytes = sum(spec.row_bytes(tap.dim) for tap in taps)
    pace = Pace(tasks, passes.rows, row_bytes, _utilisation(model, taps, passes.context))
    with Lanes() as lanes:
        for start, stop in sorted({(p.start, p.stop) for array in arrays for p in array.parts()}):
            _capture_part(model, arrays, range(start, stop), passes, works[0].mask, lanes, pace)


def _utilisation(model: PreTrainedModel, taps: Sequence[Tap], context: int) -> float | None:
    """The share of the device's peak that one token a second makes; None where it is not known."""
    work = forward_flops(model, max(tap.layer for tap in taps), context)
    peak = peak_flops(model.device, model.dtype)
    return None if work is None or peak is None else work / peak


def _capture_part(
    model: PreTrainedModel,
    arrays: Sequence[_Array],
    rows: range,
    passes: Passes,
    policy: MaskSpec,
    lanes: Lanes,
    pace: Pace,
) -> None:
    """Capture `rows` of every array for which they are a part that is not written or held."""
    with ExitStack() as stack:
        open_: list[tuple[_Array, Recorder]] = []
        for array in arrays:
            part = array.part(rows)
            if part is None:
                continue
            try:
                stack.enter_context(array.task.part(_name(part)))
            except Blocked:
                continue
            recorder = stack.enter_context(
                Recorder(array.task.out, array.plan, array.attrs, part=part, lanes=lanes)
            )
            if recorder.missing:
                open_.append((array, recorder))
        if not open_:
            return
        done = min(array.committed_rows() for array in arrays)
        stack.enter_context(pace.following([recorder for _, recorder in open_], done, rows))
        reader = Capture(model, [array.tap for array, _ in open_])
        for b in passes.covering(r.rows_of(s) for _, r in open_ for s in r.missing):
            first = b * passes.batch_rows
            tokens, reasons = passes.batch(b)
            for (array, recorder), acts in zip(open_, reader(tokens), strict=True):
                flat = acts.flatten(0, 1)
                recorder.put(first, flat, counted(reasons, flat, array.limit, policy))
            pace.passed(min(first + len(reasons), rows.stop), lanes)
        lanes.drain()


def counted(reasons: np.ndarray, acts: Tensor, limit: float | None, policy: MaskSpec) -> np.ndarray:
    """What the mask stores: 0 for a row that counts under `policy`, else its reasons."""
    found = marked(reasons, acts, limit)
    return np.where(masks.keep(found, policy), np.uint8(0), found)


@dataclass(frozen=True)
class _Array:
    """One array of the job, begun on disk."""

    task: Task
    tap: Tap
    plan: ArrayPlan
    table: Table
    part_rows: int
    attrs: dict[str, object]

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


def _begin(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    taps: Sequence[Tap],
    spec: CacheSpec,
    passes: Passes,
    policy: MaskSpec,
) -> list[_Array]:
    """Declare the arrays that nobody declared yet, with the outlier limits of this model here.

    Waits while another process is at that.
    """
    with ExitStack() as stack:
        for task in sorted(tasks, key=lambda t: t.out):  # or two processes wait for each other
            while True:
                try:
                    stack.enter_context(task.part(DECLARING))
                    break
                except Blocked:
                    task.leave("its beginning")
                    time.sleep(0.2)
        there = [declared(data_files(task.out)) for task in tasks]
        new = [tap for tap, attrs in zip(taps, there, strict=True) if attrs is None]
        limits = iter(outlier_limits(model, new, passes, policy))
        arrays = []
        for task, tap, attrs in zip(tasks, taps, there, strict=True):
            shape = (tap.dim, passes.context, passes.rows)
            plan = ArrayPlan(
                passes.rows,
                tap.dim,
                spec.chunk_rows(*shape),
                spec.shard_rows(*shape),
                spec.dtype,
            )
            about: dict[str, object] = {
                **_provenance(task),
                "layer": tap.layer,
                "site": tap.site,
                "module": tap.name,
                "context": passes.context,
                "outlier_norm": next(limits) if attrs is None else attrs.get("outlier_norm"),
            }
            array = _Array(task, tap, plan, plan.table(), spec.part_rows(*shape), about)
            declare(data_files(task.out), array.table, plan.attrs(about))
            arrays.append(array)
    return arrays


def _provenance(task: Task) -> dict[str, object]:
    """Where the rows come from, for whoever opens the array without saectl."""
    tokens = task.deps["tokens"]
    return {
        "key": task.key,
        "tokens": f"../../tokens/{tokens.path.name}/train.zarr",
        "work": identity(task.work),
    }


def _check_room(arrays: Sequence[_Array]) -> None:
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


def _taken(task: Task, spec: CacheSpec) -> bool:
    """Whether each part of the task's array is written, or held by another process."""
    if declared(data_files(task.out)) is None:
        return False
    reader = ActivationReader(task.out)
    table, there = reader.table.table, reader.table.commits
    size = spec.part_rows(reader.d, int(reader.attrs["context"]), table.rows) // table.shard_rows
    parts = [range(s, min(s + size, table.n_shards)) for s in range(0, table.n_shards, size)]
    open_ = [part for part in parts if any(s not in there for s in part)]
    return all(is_held(StageDir(task.out), _name(part)) for part in open_)


def _name(part: range) -> str:
    return f"{part.start:06d}-{part.stop:06d}"


def _complete(out: Path) -> bool:
    """Whether every shard of an array is committed."""
    if declared(data_files(out)) is None:
        return False
    return ActivationReader(out).complete


def _seal(task: Task) -> None:
    """Finish the task's array if it is complete, or say that another process is at it."""
    if not _complete(task.out):
        task.wait(f"{task.name} is being captured by other processes")
        return
    try:
        with task.whole():
            summary, files = finish(task.out)
            attrs = ActivationReader(task.out).attrs
            about = {"outlier_norm": attrs["outlier_norm"], "module": attrs["module"]}
            task.finish([str(p.relative_to(task.out)) for p in files], {**summary, **about})
    except Blocked as blocked:
        task.wait(str(blocked))
