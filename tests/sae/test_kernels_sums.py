"""Decoding, dot products and gradients by the kernels equal dense products in float64."""

from __future__ import annotations

import pytest
import torch
from interpreted import DEVICE, fused
from torch import Tensor

from sae_cli.sae.kernels import latents, lists, plain
from sae_cli.sae.kernels.lists import by_latent

FORMATS = [torch.float32, torch.bfloat16]
SIZES = [(6, 70, 21, 4), (5, 16, 9, 1), (3, 1, 5, 5), (4, 200, 6, 3), (0, 70, 3, 2)]
"""Rows, d, d_sae and k: odd ones, powers of two, one of everything, all latents, no rows."""


class Drawn:
    """A batch of entries, some of them 0, and the dense matrices that it stands for."""

    def __init__(self, rows: int, d: int, d_sae: int, k: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(d_sae)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(DEVICE)

        self.pre = draw(rows, d_sae) - 0.3
        self.values, self.indices = plain.top_k(self.pre, k)
        self.f = torch.zeros_like(self.pre).scatter_(1, self.indices, self.values).double()
        self.z, self.grad = draw(rows, d).to(dtype), draw(rows, d).to(dtype)
        self.W = torch.nn.functional.normalize(draw(d_sae, d)).to(dtype)
        self.b = draw(d)
        self.row_ends = torch.arange(0, rows * k + 1, k, device=DEVICE)

    def gradients(self, tangent: bool) -> dict[str, Tensor]:
        """The dense ones."""
        z, grad, W = self.z.double(), self.grad.double(), self.W.double()
        slopes = (grad @ W.T) * (self.f > 0)
        dec, enc, b_enc = self.f.T @ grad, slopes.T @ z, slopes.sum(0)
        if tangent:
            dec -= (dec * W).sum(1, keepdim=True) * W
        squares = dec.square().sum(1) + enc.square().sum(1) + b_enc.square()
        values = slopes.gather(1, self.indices)
        return {"values": values, "dec": dec, "enc": enc, "b_enc": b_enc, "squares": squares}


def near(got: Tensor, exact: Tensor) -> None:
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_decoding_equals_the_dense_product(
    size: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    drawn = Drawn(*size, dtype)
    entries = (drawn.values.flatten(), drawn.indices.flatten(), drawn.row_ends, drawn.W)
    near(fused.bags(*entries, drawn.b), drawn.f @ drawn.W.double() + drawn.b)
    near(fused.bags(*entries), drawn.f @ drawn.W.double())


def test_a_row_that_has_nothing_decodes_to_the_bias() -> None:
    drawn = Drawn(3, 70, 12, 2, torch.float32)
    ends = torch.tensor([0, 0, 2, 2], device=DEVICE)
    weights, members = torch.tensor([2.0, 3.0, 9.0]), torch.tensor([4, 5, 99])
    out = fused.bags(weights.to(DEVICE), members.to(DEVICE), ends, drawn.W, drawn.b)
    assert torch.equal(out[0], drawn.b) and torch.equal(out[2], drawn.b)
    near(out[1], (2 * drawn.W[4] + 3 * drawn.W[5] + drawn.b).double())


def test_what_has_weight_0_is_not_read() -> None:
    drawn = Drawn(1, 70, 12, 2, torch.float32)
    drawn.W[3] = float("nan")
    weights, members = torch.tensor([1.0, 0.0]).to(DEVICE), torch.tensor([2, 3]).to(DEVICE)
    assert torch.equal(fused.bags(weights, members, drawn.row_ends, drawn.W)[0], drawn.W[2])


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_dot_products_of_pairs_equal_the_dense_ones(
    size: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    drawn = Drawn(*size, dtype)
    entries = by_latent(drawn.indices, size[2])
    sorted_latents = drawn.indices.flatten()[entries.order]
    got = fused.dots(drawn.W, drawn.z, sorted_latents, entries.sources, entries.ends)
    dense = (drawn.z.double() @ drawn.W.double().T).gather(1, drawn.indices)
    near(got, dense.flatten()[entries.order])


@pytest.fixture(params=[128, 2], ids=["whole latents", "latents in parts"])
def part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    for module in (lists, latents):
        monkeypatch.setattr(module, "PART", request.param)
    return int(request.param)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_gradients_equal_the_dense_ones(
    size: tuple[int, int, int, int], dtype: torch.dtype, part: int
) -> None:
    drawn = Drawn(*size, dtype)
    entries = by_latent(drawn.indices, size[2])
    got = fused.backward(drawn.values, entries, drawn.grad, drawn.z, drawn.W)
    for name, exact in drawn.gradients(tangent=False).items():
        near(getattr(got, name), exact)


def test_the_wide_dictionary_of_a_narrow_model() -> None:
    drawn = Drawn(3, 70, 200, 1, torch.float32)
    entries = by_latent(drawn.indices, 200)
    got = fused.backward(drawn.values, entries, drawn.grad, drawn.z, drawn.W, tangent=True)
    for name, exact in drawn.gradients(tangent=True).items():
        near(getattr(got, name), exact)
    assert float((got.dec * drawn.W).sum(1).abs().max()) < 1e-5


def test_the_draws_have_entries_of_value_0_and_latents_that_many_and_none_have() -> None:
    drawn = Drawn(*SIZES[0], torch.float32)
    counts = by_latent(drawn.indices, 21).ends.diff()
    assert counts.max() > 2 and (counts == 0).any()
    assert (Drawn(*SIZES[2], torch.float32).values == 0).any()


def test_kernels_give_what_plain_torch_gives_and_twice_the_same_bits(part: int) -> None:
    drawn = Drawn(*SIZES[0], torch.float32)
    entries = by_latent(drawn.indices, 21)
    given = (drawn.values, entries, drawn.grad, drawn.z, drawn.W)
    ours, again = (fused.backward(*given, tangent=True) for _ in range(2))
    theirs = plain.backward(*given, tangent=True)
    for mine, repeated, other in zip(ours, again, theirs, strict=True):
        assert torch.equal(mine, repeated)
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_batch_cut_as_a_whole_goes_through_decoding_and_gradients_with_its_padding() -> None:
    drawn = Drawn(5, 70, 24, 3, torch.float32)
    pre = drawn.pre - 1.5
    kept = fused.batch_top_k(pre, 6)
    assert kept.values[-1] == 0 and kept.row_ends[-1] < kept.values.numel()
    n = int(kept.row_ends[-1])
    drawn.f = torch.zeros_like(drawn.f)
    drawn.f[kept.rows[:n], kept.latents[:n]] = kept.values[:n].double()
    near(fused.bags(kept.values, kept.latents, kept.row_ends, drawn.W), drawn.f @ drawn.W.double())
    entries = by_latent(kept.latents, 24, kept.rows)
    got = fused.backward(kept.values, entries, drawn.grad, drawn.z, drawn.W)
    exact = drawn.gradients(tangent=False)
    for name in ("dec", "enc", "b_enc", "squares"):
        near(getattr(got, name), exact[name])
    slopes = (drawn.grad @ drawn.W.T).double()[kept.rows[:n], kept.latents[:n]]
    near(got.values[:n], slopes)
    assert not got.values[n:].any()
    theirs = plain.backward(kept.values, entries, drawn.grad, drawn.z, drawn.W)
    torch.testing.assert_close(got.values, theirs.values)


def test_a_value_that_is_not_a_number_is_not_lost() -> None:
    drawn = Drawn(*SIZES[0], torch.float32)
    drawn.values[2, 1] = float("nan")
    latent = int(drawn.indices[2, 1])
    entries = by_latent(drawn.indices, 21)
    got = fused.backward(drawn.values, entries, drawn.grad, drawn.z, drawn.W)
    assert got.dec[latent].isnan().all() and got.squares[latent].isnan()
    assert int(got.squares.isnan().sum()) == 1
    given = (drawn.values.flatten(), drawn.indices.flatten(), drawn.row_ends, drawn.W)
    assert fused.bags(*given).isnan().all(1).tolist() == [row == 2 for row in range(6)]
