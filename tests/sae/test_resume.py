"""Every architecture: N steps, a restart from the state, and N steps are 2N steps, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.sae.fold import scaling
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import ARCHITECTURES

D_IN, ROWS, STEPS = 16, 64, 40


def _batch(step: int) -> Tensor:
    return torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(step)) + 2.0


def _trainer(arch: str) -> Trainer:
    sparse = {"k": 3} if "k" in ARCHITECTURES[arch].model_fields else {}
    fields = {"arch": arch, "width": 64, "lr": 0.01, "dead_after": 2 * ROWS, "ema_decay": 0.9}
    spec = ARCHITECTURES[arch].model_validate(fields | sparse)
    return Trainer(spec, D_IN, *scaling(torch.full((D_IN,), 2.0), 5.0 * D_IN), "cpu", STEPS)


def _finished(trainer: Trainer) -> dict[str, Tensor]:
    trainer.calibrate(lambda: iter([_batch(STEPS), _batch(STEPS + 1)]))
    return trainer.finish().tensors()


@pytest.mark.parametrize("stop", [1, 11, 33])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_restart_changes_nothing(arch: str, stop: int) -> None:
    whole, first, second = (_trainer(arch) for _ in range(3))
    for step in range(STEPS):
        whole.step(_batch(step))
    for step in range(stop):
        first.step(_batch(step))
    tensors, scalars = first.state_dict()
    second.load_state_dict({n: t.clone() for n, t in tensors.items()}, scalars)
    for step in range(stop, STEPS):
        second.step(_batch(step))
    wanted, _ = whole.state_dict()
    for name, tensor in second.state_dict()[0].items():
        assert torch.equal(tensor, wanted[name]), name
    found = _finished(second)
    assert all(torch.equal(t, found[n]) for n, t in _finished(whole).items())


def test_an_architectures_state_is_refused_by_its_kin() -> None:
    trainer = _trainer("matryoshka")
    trainer.step(_batch(0))
    with pytest.raises(StoreError, match="is not one of a batchtopk SAE"):
        _trainer("batchtopk").load_state_dict(*trainer.state_dict())
