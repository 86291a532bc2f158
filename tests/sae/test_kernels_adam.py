"""The fused optimizer pass equals the separate operations in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from interpreted import DEVICE, fused
from torch import Tensor

from sae_cli.sae.form import remove_radial, renormalise
from sae_cli.sae.kernels import plain

RATES: dict[str, Any] = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


class State:
    """A parameter and its moments."""

    def __init__(self, shape: tuple[int, ...], unit: bool, dtype: torch.dtype = torch.float32):
        self.param = renormalise(draw(*shape)) if unit else draw(*shape)
        self.moments = [torch.zeros_like(self.param, dtype=dtype) for _ in range(2)]
        self.count = torch.zeros((), device=DEVICE)

    def step(self, how: Any, grad: Tensor, **named: Any) -> None:
        self.count += 1
        how(self.param, grad, *self.moments, self.count, **RATES, **named)

    def all(self) -> list[Tensor]:
        return [self.param, *self.moments]


CASES = [((9, 70), True), ((6, 1), True), ((5, 64), True), ((9, 70), False), ((3000,), False)]


@pytest.mark.parametrize(("shape", "unit"), CASES, ids=str)
def test_steps_equal_those_of_separate_operations(shape: tuple[int, ...], unit: bool) -> None:
    state = State(shape, unit)
    exact = torch.nn.Parameter(state.param.double())
    adam = torch.optim.Adam([exact], lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    copy = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE)
    for number in range(3):
        grad = draw(*shape, seed=number + 1)
        state.step(fused.adam, grad, shrink=torch.tensor(1.7, device=DEVICE), unit=unit, copy=copy)
        exact.grad = grad.double() / 1.7
        if unit:
            remove_radial(exact.grad, exact.data)
        adam.step()
        if unit:
            renormalise(exact.data)
        torch.testing.assert_close(state.param.double(), exact.data, rtol=1e-5, atol=1e-6)
    moments = [adam.state[exact][name] for name in ("exp_avg", "exp_avg_sq")]
    for got, want in zip(state.moments, moments, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-7)
    # Triton's interpreter cuts bfloat16 off, a GPU rounds to the nearest.
    torch.testing.assert_close(copy.float(), state.param, rtol=2**-7, atol=0)


@pytest.mark.parametrize("unit", [True, False])
def test_steps_equal_those_in_plain_torch(unit: bool) -> None:
    ours, theirs = State((9, 70), unit), State((9, 70), unit)
    for number in range(2):
        grad = draw(9, 70, seed=number + 1)
        ours.step(fused.adam, grad, unit=unit)
        theirs.step(plain.adam, grad, unit=unit)
    for got, want in zip(ours.all(), theirs.all(), strict=True):
        torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("how", [fused.adam, plain.adam], ids=["kernel", "torch"])
def test_a_skipped_step_changes_nothing(how: Any, unit: bool) -> None:
    state = State((4, 70), unit)
    state.step(how, draw(4, 70, seed=1), unit=unit)
    before = [t.clone() for t in state.all()]
    broken = torch.full((4, 70), float("nan"), device=DEVICE)
    one, zero = torch.ones((), device=DEVICE), torch.zeros((), device=DEVICE)
    how(state.param, broken, *state.moments, state.count, **RATES, skip=one, unit=unit)
    assert all(torch.equal(a, b) for a, b in zip(before, state.all(), strict=True))
    state.step(how, draw(4, 70, seed=2), skip=zero, unit=unit)
    assert not torch.equal(before[0], state.param)


def test_a_zero_row_stays_zero() -> None:
    state = State((3, 70), True)
    state.param[1] = 0.0
    grad = draw(3, 70, seed=1)
    grad[1] = 0.0
    state.step(fused.adam, grad, unit=True)
    assert not state.param[1].any()
    norms = state.param[[0, 2]].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_nothing_to_move_is_no_error() -> None:
    state = State((0, 70), True)
    state.step(fused.adam, draw(0, 70), unit=True)
    assert state.param.shape == (0, 70)


@pytest.mark.parametrize("unit", [True, False])
def test_bfloat16_moments_are_rounded_to_a_neighbour_at_random_and_without_bias(unit: bool) -> None:
    grad = draw(2, 70, seed=1)
    exact = State((2, 70), unit)
    exact.step(fused.adam, grad, unit=unit)
    sums = [torch.zeros_like(m) for m in exact.moments]
    rounds = 48
    for seed in range(rounds):
        state = State((2, 70), unit, torch.bfloat16)
        state.step(fused.adam, grad, unit=unit, seed=seed)
        for total, got, want in zip(sums, state.moments, exact.moments, strict=True):
            total += got.float() / rounds
            assert ((got.float() - want).abs() <= want.abs() * 2**-7).all()
        assert torch.equal(state.param, exact.param)
    for total, want in zip(sums, exact.moments, strict=True):
        bias = ((total - want) / want.abs()).mean()
        assert abs(float(bias)) < 2**-11  # always the nearer one below would be off by 2**-8.5


def test_random_rounding_is_a_function_of_the_seed() -> None:
    moments = []
    for seed in (5, 5, 6):
        state = State((2, 70), True, torch.bfloat16)
        state.step(fused.adam, draw(2, 70, seed=1), unit=True, seed=seed)
        moments.append(state.moments[1])
    assert torch.equal(moments[0], moments[1]) and not torch.equal(moments[0], moments[2])
