"""Adam against its formula in float64, and its moments in bfloat16."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sae_cli.sae import optimizer
from sae_cli.sae.optimizer import EPS, Adam

SHAPES = {"enc": (40, 6), "b_enc": (40,)}
RATES = {"enc": 1e-2, "b_enc": 3e-2}


def _drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def _reference(steps: int, shrink: float = 1.0) -> dict[str, Tensor]:
    params = {n: t.double() for n, t in _drawn(0).items()}
    first, second = ({n: torch.zeros_like(t) for n, t in params.items()} for _ in range(2))
    for step in range(1, steps + 1):
        for name, grad in _drawn(step).items():
            g = grad.double() / shrink
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.99 * second[name] + 0.01 * g * g
            m, v = first[name] / (1 - 0.9**step), second[name] / (1 - 0.99**step)
            params[name] = params[name] - RATES[name] * m / (v.sqrt() + EPS)
    return params


def _moved(steps: int, dtype: torch.dtype, shrink: Tensor | None = None) -> dict[str, Tensor]:
    params = _drawn(0)
    adam = Adam(params, 0.9, 0.99, dtype)
    for step in range(1, steps + 1):
        adam.step(_drawn(step), RATES, step - 1, shrink)
    return params


def test_it_is_adam() -> None:
    for name, wanted in _reference(20).items():
        torch.testing.assert_close(_moved(20, torch.float32)[name], wanted.float())


def test_gradients_are_divided_by_what_shrinks_them() -> None:
    for name, wanted in _reference(5, shrink=1e8).items():
        got = _moved(5, torch.float32, torch.tensor(1e8))[name]
        torch.testing.assert_close(got, wanted.float())


def test_a_step_that_is_skipped_changes_nothing() -> None:
    params = _drawn(0)
    adam = Adam(params, 0.9, 0.99, torch.float32)
    adam.step(_drawn(1), RATES, 0, None, torch.zeros(()))
    before = {n: t.clone() for n, t in (params | adam.state).items()}
    bad = {n: torch.full_like(t, math.nan) for n, t in _drawn(2).items()}
    adam.step(bad, RATES, 1, None, torch.ones(()))
    for name, tensor in (params | adam.state).items():
        assert torch.equal(tensor, before[name]), name


def test_moments_in_bfloat16_end_near_those_in_float32() -> None:
    narrow, wide = _moved(50, torch.bfloat16), _reference(50)
    start = _drawn(0)
    for name in SHAPES:
        way = (wide[name] - start[name]).norm()
        assert 0 < (narrow[name] - wide[name]).norm() < 0.02 * way, name


def test_a_second_moment_in_bfloat16_does_not_stand_still() -> None:
    """It moves by 0.1 % a step, and bfloat16 knows no step below 0.4 %."""
    params = {"w": torch.zeros(64, 64)}
    adam = Adam(params, 0.0, 0.999, torch.bfloat16)
    for step in range(400):
        adam.step({"w": torch.ones(64, 64)}, {"w": 0.0}, step)
    mean = float(adam.state["w.exp_avg_sq"].float().mean())
    assert abs(mean / (1 - 0.999**400) - 1.0) < 0.02


def test_rows_that_are_widened_apart_move_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "ROWS_BYTES", 2 * 3 * 4)
    params = {"w": torch.zeros(7, 3)}
    Adam(params, 0.9, 0.99, torch.bfloat16).step({"w": torch.ones(7, 3)}, {"w": 0.1}, 0)
    torch.testing.assert_close(params["w"], torch.full((7, 3), -0.1), rtol=1e-2, atol=0)
