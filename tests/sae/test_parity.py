"""The fast path against a dense step that autograd differentiates: the same curve, the same end."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from sae_cli.sae.schedule import learning_rate
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import TopKTrain

D_IN, D_SAE, TRUE, K, ROWS, STEPS = 32, 128, 64, 4, 256, 100


def _data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(TRUE, D_IN, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    batches = []
    for _ in range(STEPS):
        on = torch.rand(ROWS, TRUE, generator=generator) < 3 / TRUE
        weights = 1 + 2 * torch.rand(ROWS, TRUE, generator=generator)
        noise = 0.05 * torch.randn(ROWS, D_IN, generator=generator)
        batches.append((on * weights) @ directions + noise)
    return batches


def _dense(spec: TopKTrain, batches: list[Tensor]) -> tuple[float, float]:
    """FVU of the last batches and dead share: torch's own topk, autograd, Adam; no line of ours
    but the first weights and the learning rate."""
    start = Trainer(spec, D_IN, torch.zeros(D_IN), 1.0, "cpu", STEPS).form.params
    p = {name: param.clone().requires_grad_() for name, param in start.items()}
    adam = torch.optim.Adam(p.values())
    silent, fvus = torch.zeros(D_SAE), []
    for step, z in enumerate(batches):
        pre = (z @ p["enc"].T + p["b_enc"]).relu()
        f = torch.zeros_like(pre).scatter(1, *reversed(pre.topk(K)))
        error = f @ p["dec"] + p["b_dec"] - z
        loss = error.square().sum() / (z - z.mean(0)).square().sum()
        fvus.append(float(loss.detach()))
        dead = silent >= (spec.dead_after or 0)
        if dead.any():
            assert int(dead.sum()) <= (spec.auxk or 0)
            missed = pre[:, dead] @ p["dec"][dead] + error.detach()
            e = error.detach()
            loss = loss + missed.square().sum() / (e - e.mean(0)).square().sum() / 32
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            dec, grad = p["dec"], p["dec"].grad
            assert grad is not None
            grad -= (grad * dec).sum(1, keepdim=True) * dec
            torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
            adam.param_groups[0]["lr"] = learning_rate(spec, D_IN, step, STEPS)
            adam.step()
            dec /= dec.norm(dim=1, keepdim=True)
        silent = torch.where((f > 0).any(0), 0.0, silent + ROWS)
    return sum(fvus[-20:]) / 20, float((silent >= (spec.dead_after or 0)).float().mean())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_ends_where_a_dense_reference_ends(precision: Literal["float32", "bfloat16"]) -> None:
    spec = TopKTrain(width=D_SAE, k=K, precision=precision, dead_after=5 * ROWS, auxk=D_SAE)
    batches = _data()
    trainer = Trainer(spec, D_IN, torch.zeros(D_IN), 1.0, "cpu", STEPS)
    logs = []
    for batch in batches:
        trainer.step(batch)
        logs.append(trainer.log())
    assert any("aux_loss" in log for log in logs)
    fvu = sum(log["fvu"] for log in logs[-20:]) / 20
    wanted, dead = _dense(spec, batches)
    assert wanted < 0.5
    assert fvu == pytest.approx(wanted, rel=0.01)
    assert logs[-1]["dead_fraction"] == pytest.approx(dead, abs=0.01)
