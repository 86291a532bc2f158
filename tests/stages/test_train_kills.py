"""A grid that is killed anywhere, again and again, ends with the bits of one that nobody disturbed.

`train_driver` forks the processes; each kill falls at a seeded moment: at a batch, a step, in the
middle of a checkpoint, or just before or after it takes the old one's place.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from training import bench

from sae_cli.sae.forms import FORMS
from sae_cli.spec.train import ARCHITECTURES
from sae_cli.stages.grid_state import read_state
from sae_cli.stages.train import run

DRIVER = Path(__file__).with_name("train_driver.py")
EVERY = {
    "data_seed": 5, "num_tokens": 1440, "width": 128, "checkpoint_every": 3, "dead_after": 121,
}  # fmt: skip
"""12 steps. Latents that are silent for two of them are dead: AuxK runs where there is one."""
ONES: dict[str, dict[str, Any]] = {
    arch: {"arch": arch, "seed": i, **EVERY, **({"k": 2} if "k" in spec.model_fields else {})}
    for i, (arch, spec) in enumerate(ARCHITECTURES.items())
    if spec in FORMS
}
GRID = {
    **{f"grid-{arch}": spec for arch, spec in ONES.items()},
    "other-size": {**EVERY, "batch_size": 200, "k": 4},
    "no-auxk": {**EVERY, "auxk_alpha": 0.0, "k": 2},
}
Order = Callable[[Path, dict[str, Any], int], tuple[int, int]]


@pytest.fixture(scope="module")
def order() -> Iterator[Order]:
    """`order(folder, specs, n)`: train until moment n, 0: to the end (`train_driver`)."""
    with subprocess.Popen(
        [sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def give(folder: Path, specs: dict[str, Any], n: int) -> tuple[int, int]:
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps([str(folder), specs, n]), file=process.stdin, flush=True)
            code, moments = process.stdout.readline().split()
            return int(code), int(moments)

        yield give
        process.stdin.close()


def weights(folder: Path, name: str) -> bytes:
    return (folder / "train" / name / "sae_weights.safetensors").read_bytes()


def killed(order: Order, tmp_path: Path, specs: dict[str, Any], seed: int, most: int) -> int:
    """Train twice, undisturbed and killed; returns how many kills there were."""
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    bench(calm), bench(wild)
    code, total = order(calm, specs, 0)
    assert code == 0
    dice, kills = random.Random(seed), 0
    for _ in range(most):
        code, _ = order(wild, specs, dice.randint(1, total // 3))
        assert code in (0, -9)
        if code == 0:
            break
        kills += 1
        for name in specs:
            work = wild / "train" / name / "work"
            read_state(work / "state.safetensors")  # whole, or none
            assert not work.exists() or len(list(work.iterdir())) <= 2
    assert order(wild, specs, 0)[0] == 0
    for name in specs:
        assert weights(calm, name) == weights(wild, name), name
    return kills


@pytest.mark.parametrize("arch", ONES)
def test_an_sae_that_is_killed_ends_with_the_same_bits(order, tmp_path, arch):
    assert killed(order, tmp_path, {arch: ONES[arch]}, seed=len(arch), most=5) >= 2


def test_a_grid_that_is_killed_ends_with_the_same_bits_for_each(order, tmp_path):
    assert killed(order, tmp_path, GRID, seed=1, most=10) >= 5


def test_auxk_is_at_work_in_these_trainings(tmp_path):
    """Else what it needs to go on would not be tested."""
    place = bench(tmp_path)
    run([place.task("topk", **ONES["topk"], log_every=1)])
    text = (place.root / "train" / "topk" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert any("aux_loss" in line for line in lines[3:])
