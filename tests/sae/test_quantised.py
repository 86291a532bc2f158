"""Moments in 8 bits: what is kept of a number, what it takes, and how Adam moves by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_cli.sae import optimizer
from sae_cli.sae.optimizer import EPS, Adam
from sae_cli.sae.quantised import BLOCK, narrow, widened, zeros

each_format = pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=str)


def _noise(shape: torch.Size, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**16, shape, generator=generator, dtype=torch.int32)


def _kept(exact: Tensor, dtype: torch.dtype, seed: int = 0) -> Tensor:
    codes, scales = zeros(exact, dtype)
    narrow(exact, _noise(exact.shape, seed), codes, scales)
    return widened(codes, scales)


def _moment(dtype: torch.dtype, rows: int = 3, width: int = 2 * BLOCK + 7) -> Tensor:
    """Numbers over six decades."""
    generator = torch.Generator().manual_seed(1)
    exact = 10.0 ** (-6.0 * torch.rand(rows, width, generator=generator))
    if dtype == torch.int8:
        exact *= torch.rand(rows, width, generator=generator).sub(0.5).sign()
    return exact


@each_format
def test_a_number_is_kept_as_one_of_the_two_levels_about_it(dtype: torch.dtype) -> None:
    exact, power = _moment(dtype), 2 if dtype == torch.int8 else 4
    kept, top = _kept(exact, dtype), torch.iinfo(dtype).max
    for part, found in zip(exact.split(BLOCK, 1), kept.split(BLOCK, 1), strict=True):
        scale = part.abs().amax(1, keepdim=True)
        wanted, code = (top * (x.abs() / scale) ** (1 / power) for x in (part, found))
        assert (code - code.round()).abs().max() < 1e-3 * top
        assert ((code - wanted).abs()[wanted > 1] < 1.01).all()
        assert torch.equal(found.sign()[wanted > 1], part.sign()[wanted > 1])


@each_format
def test_on_average_a_number_is_kept_as_it_is(dtype: torch.dtype) -> None:
    exact = _moment(dtype, 1, 64)
    mean = torch.stack([_kept(exact, dtype, seed) for seed in range(2000)]).mean(0)
    assert ((mean - exact).abs() < 1e-3 * exact.abs().max()).all()


@each_format
@pytest.mark.parametrize("scale", [1.0, 0.3337, 3.1e-5, 1e-30, 7e12])
@pytest.mark.parametrize("noise", [0, 2**16 - 1])
def test_what_was_rounded_stays_whatever_the_noise(
    dtype: torch.dtype, scale: float, noise: int
) -> None:
    info = torch.iinfo(dtype)
    codes = torch.arange(max(info.min, -127), info.max + 1).to(dtype)[None]
    scales = torch.full((1, 1), scale)
    found, found_scales = zeros(codes, dtype)
    narrow(
        widened(codes, scales), torch.full(codes.shape, noise, dtype=torch.int32),
        found, found_scales,
    )  # fmt: skip
    assert torch.equal(found, codes) and torch.equal(found_scales, scales)


def test_zeros_stay_and_tiny_second_moments_do_not_become_zero() -> None:
    exact = torch.tensor([[0.0, 1e-30, 1e-12, 1.0], [0.0] * 4, [0.0, 1e-42, 0.0, 3e-39]])
    kept = _kept(exact, torch.uint8)
    assert torch.equal(kept > 0, exact > 0) and kept.isfinite().all()


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0])
def test_a_tiny_gradient_beside_a_large_one_makes_no_large_step(size: float) -> None:
    params = {"w": torch.zeros(8, BLOCK)}
    adam = Adam(params, 0.9, 0.999, torch.int8)
    for step in range(100):
        before = params["w"].clone()
        generator = torch.Generator().manual_seed(step)
        grad = torch.randn(8, BLOCK, generator=generator)
        grad[:, ::2] *= size
        adam.step({"w": grad}, {"w": 1.0}, step)
        assert (params["w"] - before).abs().max() < 10.0


def test_it_takes_two_bytes_a_weight_and_eight_a_block() -> None:
    """And no less for a vector than in float32."""
    params = {"enc": torch.zeros(40, BLOCK + 1), "b_enc": torch.zeros(40)}
    state = Adam(params, 0.9, 0.999, torch.int8).state
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    found = sum(size for name, size in sizes.items() if name.startswith("enc.exp"))
    assert found == 2 * 40 * (BLOCK + 1) + 8 * 40 * 2
    assert sizes["b_enc.exp_avg"] == sizes["b_enc.exp_avg_sq"] == 4 * 40
    assert state["enc.exp_avg"].dtype == torch.int8
    assert state["enc.exp_avg_sq"].dtype == torch.uint8


def test_a_second_moment_follows_gradients_that_change_their_size() -> None:
    """It moves by 0.1 % a step, where levels lie 2 % and more apart."""
    params = {"w": torch.zeros(64, 64)}
    adam = Adam(params, 0.0, 0.999, torch.int8)
    wanted = torch.zeros(64, 64)
    for step in range(600):
        grad = torch.linspace(0.1, 1.0, 64).expand(64, 64) * (2.0 if step < 300 else 1.0)
        adam.step({"w": grad}, {"w": 0.0}, step)
        wanted = 0.999 * wanted + 0.001 * grad.square()
    second = widened(adam.state["w.exp_avg_sq"], adam.state["w.exp_avg_sq_scale"])
    assert ((second / wanted).mean(0) - 1.0).abs().max() < 0.1
    assert abs(float((second / wanted).mean()) - 1.0) < 0.02


def test_rows_that_are_widened_apart_move_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "ROWS_BYTES", 2 * 3 * 4)
    params = {"w": torch.zeros(7, 3)}
    Adam(params, 0.9, 0.99, torch.int8).step({"w": torch.ones(7, 3)}, {"w": 0.1}, 0)
    torch.testing.assert_close(params["w"], torch.full((7, 3), -0.1 / (1 + EPS)))
