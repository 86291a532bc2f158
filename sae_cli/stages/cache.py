"""Token blocks to stored activations: one forward feeds every (layer, site) of a model.

The rows of an array fall into parts, and whoever runs this takes the next part that nobody holds:
start it on as many machines as there are. Which rows a forward reads depends on nothing but the
spec, so the array is the same, bit for bit, whoever captured what, and in whose company. The mask
is decided here, once, and stored with the rows: training and every metric read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from sae_cli.errors import Blocked, ModelError
from sae_cli.lm import masks
from sae_cli.lm.capture import Capture
from sae_cli.lm.check import check_layer
from sae_cli.lm.device import pick_device
from sae_cli.lm.flops import forward_flops, peak_flops
from sae_cli.lm.load import load_model
from sae_cli.lm.outliers import marked
from sae_cli.lm.sites import Tap, find_tap
from sae_cli.spec.stages import MaskSpec
from sae_cli.spec.work import CacheWork
from sae_cli.stages.arrays import Array, begin, check_room, claimed, taken
from sae_cli.stages.pace import Pace
from sae_cli.stages.passes import Passes
from sae_cli.stages.task import Task
from sae_cli.store.acts.array import ActivationReader, declared, finish
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.strands import Lanes
from sae_cli.store.blocks import BlockReader
from sae_cli.store.buckets.locate import data_files, send_data


def run(tasks: Sequence[Task]) -> None:
    """Capture the activations of all tasks; they share a model, its tokens and the cache spec.

    Raises ModelError when the model can't be had or lacks a site, StoreError when the disk fails.
    """
    works = [task.work for task in tasks if isinstance(task.work, CacheWork)]
    assert works and len(works) == len(tasks)
    found = [_reader(task.out) for task in tasks]
    left = [(t, r) for t, r in zip(tasks, found, strict=True) if not _complete(r)]
    # a model is not loaded for nothing
    if not all(taken(task, reader, works[0].cache) for task, reader in left):
        _capture([task for task, _ in left])
        found = [_reader(task.out) for task in tasks]
    for task, reader in zip(tasks, found, strict=True):
        _seal(task, reader)


def _capture(tasks: Sequence[Task]) -> None:
    """Capture what is left of the tasks' arrays and held by nobody else."""
    works = [task.work for task in tasks if isinstance(task.work, CacheWork)]
    spec, source = works[0].cache, tasks[0].deps["tokens"]
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
    arrays = begin(model, tasks, taps, spec, passes, works[0].mask)
    check_room(arrays)
    row_bytes = sum(spec.row_bytes(tap.dim) for tap in taps)
    pace = Pace(tasks, passes.rows, row_bytes, _utilisation(model, taps, passes.context))
    parts = sorted({(p.start, p.stop) for array in arrays for p in array.parts()})
    with Lanes() as lanes:
        for wholly in (True, False):  # what others hold a piece of comes last
            for start, stop in parts:
                rows = range(start, stop)
                _capture_part(model, arrays, rows, passes, works[0].mask, lanes, pace, wholly)


def _utilisation(model: PreTrainedModel, taps: Sequence[Tap], context: int) -> float | None:
    """The share of the device's peak that one token a second makes; None where it is not known."""
    work = forward_flops(model, max(tap.layer for tap in taps), context)
    peak = peak_flops(model.device, model.dtype)
    return None if work is None or peak is None else work / peak


def _capture_part(
    model: PreTrainedModel,
    arrays: Sequence[Array],
    rows: range,
    passes: Passes,
    policy: MaskSpec,
    lanes: Lanes,
    pace: Pace,
    wholly: bool,
) -> None:
    """Capture `rows` of every array for which they are a part that is not written or held."""
    with ExitStack() as stack:
        open_: list[tuple[Array, Recorder]] = []
        for array, part in claimed(stack, arrays, rows, wholly):
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
                norms = norms_of(flat)
                recorder.put(first, flat, counted(reasons, norms, array.limit, policy), norms)
            pace.passed(min(first + len(reasons), rows.stop), lanes)
        lanes.drain()


def counted(
    reasons: np.ndarray, norms: Tensor, limit: float | None, policy: MaskSpec
) -> np.ndarray:
    """What the mask stores: 0 for a row that counts under `policy`, else its reasons."""
    found = marked(reasons, norms, limit)
    return np.where(masks.keep(found, policy), np.uint8(0), found)


def _reader(out: Path) -> ActivationReader | None:
    """What there is of an array, or None before it is begun."""
    return None if declared(data_files(out)) is None else ActivationReader(out)


def _complete(reader: ActivationReader | None) -> bool:
    """Whether every shard of an array is committed."""
    return reader is not None and reader.complete


def _seal(task: Task, reader: ActivationReader | None) -> None:
    """Finish the task's array if it is complete, or say that another process is at it."""
    if reader is None or not reader.complete:
        task.wait(f"{task.name} is being captured by other processes")
        return
    try:
        with task.whole():
            summary, files = finish(task.out)
            about = {name: reader.attrs[name] for name in ("outlier_norm", "module")}
            task.finish([str(p.relative_to(task.out)) for p in files], {**summary, **about})
    except Blocked as blocked:
        task.wait(str(blocked))
