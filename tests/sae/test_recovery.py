"""Given data that is a sparse mixture of known directions, training finds them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sae_cli.sae.fold import scaling
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import (
    ARCHITECTURES,
    BatchTopKTrain,
    GatedTrain,
    JumpReluTanhTrain,
    JumpReluTrain,
    MatryoshkaTrain,
    PAnnealTrain,
    ReluL1Train,
    TiedTrain,
    TopKTrain,
)
from sae_cli.spec.train_base import TrainBase

D_IN, TRUE, STEPS, ROWS, WIDTH = 32, 64, 300, 512, 128
ACTIVE = 3


class Mixture:
    """x = mean + sum of some 3 of 64 unit directions, each weighted 1 to 3, plus a little noise."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        directions = self._normal(TRUE, D_IN)
        self.directions: Tensor = directions / directions.norm(dim=1, keepdim=True)
        self.mean = 5.0 * self._normal(D_IN)

    def draw(self, rows: int) -> Tensor:
        on = torch.rand(rows, TRUE, generator=self._generator) < ACTIVE / TRUE
        weights = 1 + 2 * torch.rand(rows, TRUE, generator=self._generator)
        x: Tensor = (on * weights) @ self.directions + 0.02 * self._normal(rows, D_IN)
        return x + self.mean

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)


@dataclass(frozen=True)
class Found:
    """What a training found, on rows that it never saw."""

    fvu: float
    cosine: float
    """Mean over the true directions of the largest cosine with a decoder row."""
    l0: float
    losses: tuple[float, float]
    """Of the first and the last step."""


def _train(spec: TrainBase) -> Found:
    mixture = Mixture()
    sample = mixture.draw(20_000)
    mean_square = float(sample.square().sum(1).mean())
    trainer = Trainer(spec, D_IN, *scaling(sample.mean(0), mean_square), "cpu", STEPS)
    losses = []
    for _ in range(STEPS):
        trainer.step(mixture.draw(ROWS))
        losses.append(trainer.log()["loss"])
    unseen = mixture.draw(4096)
    trainer.calibrate(lambda: iter(unseen.split(ROWS)))
    sae = trainer.finish()
    x = mixture.draw(5_000)
    f = sae.encode(x)
    return Found(
        fvu=float((x - sae.decode(f)).square().sum() / (x - x.mean(0)).square().sum()),
        cosine=float((mixture.directions @ sae.W_dec.T).max(1).values.mean()),
        l0=float((f > 0).sum(1).float().mean()),
        losses=(losses[0], losses[-1]),
    )


@pytest.mark.parametrize(
    ("spec", "cosine", "l0"),
    [
        (TopKTrain(width=WIDTH, k=4), 0.95, (3.6, 4.0)),
        (BatchTopKTrain(arch="batchtopk", width=WIDTH, k=4), 0.95, (3.8, 4.2)),
        (MatryoshkaTrain(arch="matryoshka", width=WIDTH, k=4), 0.85, (3.8, 4.2)),
        (JumpReluTrain(arch="jumprelu", width=WIDTH, l0=4.0), 0.95, (3.8, 4.2)),
        (JumpReluTanhTrain(arch="jumprelu_tanh", width=WIDTH, tanh=0.5), 0.95, (2.0, 4.0)),
        (ReluL1Train(arch="relu_l1", width=WIDTH, l1=1.0), 0.9, (4.0, 16.0)),
        (PAnnealTrain(arch="p_anneal", width=WIDTH), 0.95, (3.0, 10.0)),
        (GatedTrain(arch="gated", width=WIDTH), 0.9, (4.0, 16.0)),
        (TiedTrain(arch="tied", width=WIDTH), 0.9, (3.0, 12.0)),
    ],
    ids=lambda value: getattr(value, "arch", ""),
)
def test_training_finds_the_directions_that_made_the_data(
    spec: TrainBase, cosine: float, l0: tuple[float, float]
) -> None:
    found = _train(spec)
    assert found.fvu < 0.15 and found.cosine > cosine, found
    assert l0[0] <= found.l0 <= l0[1], found
    assert found.losses[1] < 0.75 * found.losses[0], found


@pytest.mark.parametrize(
    "spec",
    [TopKTrain(width=WIDTH, k=4), JumpReluTrain(arch="jumprelu", width=WIDTH, l0=4.0)],
    ids=lambda spec: spec.arch,
)
def test_moments_in_8_bits_end_as_well_as_those_in_float32(spec: TrainBase) -> None:
    wide, narrow = (
        _train(spec.model_copy(update={"moments_dtype": dtype})) for dtype in ("float32", "int8")
    )
    assert narrow.fvu < 1.02 * wide.fvu and narrow.cosine > wide.cosine - 0.01, (narrow, wide)


def test_no_architecture_is_left_out() -> None:
    """What this file trains is all there is."""
    cases = test_training_finds_the_directions_that_made_the_data.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {case[0].arch for case in cases} == set(ARCHITECTURES)
