"""Given data that is a sparse mixture of known directions, training finds them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_cli.sae.fold import scaling
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.stages import JumpReluTrain, ReluL1Train, TopKTrain, TrainBase

D_IN, TRUE, STEPS, ROWS = 32, 64, 300, 512


class Mixture:
    """x = mean + sum of some 3 of 64 unit directions, each weighted 1 to 3, plus a little noise."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        directions = self._normal(TRUE, D_IN)
        self.directions: Tensor = directions / directions.norm(dim=1, keepdim=True)
        self.mean = 5.0 * self._normal(D_IN)

    def draw(self, rows: int) -> Tensor:
        on = torch.rand(rows, TRUE, generator=self._generator) < 3 / TRUE
        weights = 1 + 2 * torch.rand(rows, TRUE, generator=self._generator)
        x: Tensor = (on * weights) @ self.directions + 0.02 * self._normal(rows, D_IN)
        return x + self.mean

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)


@pytest.mark.parametrize(
    ("spec", "fvu", "cosine"),
    [
        (TopKTrain(width=128, k=4), 0.15, 0.95),
        (ReluL1Train(arch="relu_l1", width=128, l1=1.0), 0.15, 0.9),
        (
            JumpReluTrain(
                arch="jumprelu", width=128, l0=4.0, bandwidth=1.0, threshold_init=1.5, beta1=0.0
            ),
            0.15,
            0.9,
        ),
    ],
    ids=lambda value: getattr(value, "arch", ""),
)
def test_training_finds_the_directions_that_made_the_data(
    spec: TrainBase, fvu: float, cosine: float
) -> None:
    mixture = Mixture()
    sample = mixture.draw(20_000)
    mean_square = float(sample.square().sum(1).mean())
    trainer = Trainer(spec, D_IN, *scaling(sample.mean(0), mean_square), "cpu", STEPS)
    for _ in range(STEPS):
        trainer.step(mixture.draw(ROWS))
    sae = trainer.finish()
    x = mixture.draw(5_000)
    missed = float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())
    best = (mixture.directions @ sae.W_dec.T).max(1).values
    said = f"fvu {missed:.3f}, cosine {float(best.mean()):.3f}"
    assert missed < fvu and float(best.mean()) > cosine, said
