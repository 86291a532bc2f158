"""Transcoders in the train stage: two arrays, one pass, and the same bits however it went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import ABOUT, CHUNK, ROWS, Bench, bench, mixture

from sae_cli.errors import Interrupted
from sae_cli.spec.stages import CacheSpec, MaskSpec, ModelSpec
from sae_cli.spec.work import CacheWork
from sae_cli.stages import train
from sae_cli.stages.task import Dep, Task
from sae_cli.store.acts.array import ActivationReader, ArrayPlan, finish
from sae_cli.store.acts.paired import paired
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.layout import StageDir
from sae_cli.store.weights import load_sae

D_OUT = 6
SPECS: dict[str, dict[str, Any]] = {
    "topk": {"arch": "topk", "k": 4},
    "batchtopk": {"arch": "batchtopk", "k": 4, "skip": True},
    "jumprelu": {"arch": "jumprelu", "l0": 4.0, "skip": True},
}


def _two(root: Path, chunk: int = CHUNK // 2) -> Bench:
    """A bench with a second array, in smaller chunks, that drops other rows than the first."""
    made = bench(root)
    acts = mixture() @ torch.randn(16, D_OUT, generator=torch.Generator().manual_seed(1))
    out = _out(made)
    out.mkdir(parents=True)
    reasons = (np.arange(ROWS) % 7 == 0).astype(np.uint8)
    plan = ArrayPlan(ROWS, D_OUT, chunk, 4 * CHUNK, "float32")
    with Recorder(out, plan, ABOUT) as recorder:
        recorder.put(0, acts, reasons)
        recorder.drain()
    finish(out)
    for array in (made.array, out):
        StageDir(array).done.write_text("{}")  # as the runner leaves it
    return made


def _out(made: Bench) -> Path:
    return made.root / "cache" / "tiny.L1.resid_post-0b0b0b0b"


def _task(made: Bench, name: str, spec: dict[str, Any], **more: Any) -> Task:
    task = made.task(name, out_site="resid_post", **spec, **more)
    work = CacheWork(
        model=ModelSpec(builtin="tiny"), layer=1, site="resid_post", cache=CacheSpec(),
        mask=MaskSpec(),
    )  # fmt: skip
    dep = Dep(work, _out(made), "0b0b0b0b", "tiny.L1.resid_post")
    return replace(task, deps={**task.deps, "target": dep})


def test_rows_count_where_both_masks_say_so_and_stay_side_by_side(tmp_path: Path) -> None:
    made = _two(tmp_path)
    other = ActivationReader(_out(made))
    one, two = paired(made.array, _out(made))
    row = np.arange(ROWS)
    counts = (row % 9 != 0) & (row % 7 != 0)
    assert np.array_equal(one.kept, two.kept) and one.kept.sum() == counts.sum()
    assert np.array_equal(one.keep(), counts) and np.array_equal(two.keep(), counts)
    assert two.chunk_rows == CHUNK
    assert torch.equal(two.chunk(3), torch.cat([other.chunk(6), other.chunk(7)]))


def test_in_one_pass_they_end_as_alone_and_after_a_stop(tmp_path: Path) -> None:
    made, alone = _two(tmp_path / "grid"), _two(tmp_path / "alone")
    train.run([_task(made, name, spec) for name, spec in SPECS.items()])
    assert not made.failed
    for name, spec in SPECS.items():
        asked = iter(range(1000))
        with pytest.raises(Interrupted):
            train.run([_task(alone, name, spec, stop=lambda asked=asked: next(asked) > 6)])
        assert name not in alone.finished
        train.run([_task(alone, name, spec)])
        assert alone.sha(name) == made.sha(name), name
    held = load_sae(made.root / "train" / "jumprelu")
    assert held.cfg["architecture"] == "jumprelu_skip_transcoder"
    assert held.cfg["metadata"]["hook_name_out"] == "blocks.1.hook_resid_post"
    assert held.tensors["W_skip"].shape == (D_OUT, 16)
    assert held.cfg["metadata"]["saectl"]["out_site"] == "resid_post"
