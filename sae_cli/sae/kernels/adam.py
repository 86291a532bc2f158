# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
"""Adam, and what decoder rows need before and after it, in one pass over memory.

A parameter, its gradient and its moments are read once and written once: 28 bytes a weight in
float32, 20 with bfloat16 moments, 2 more for a bfloat16 copy. For rows of unit norm the same pass
takes the radial component off the gradient and restores the norm. Step number, clipping and
skipping are tensors on the device, so the host never waits. 8-bit moments are refused.

Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1; the radial component: Bricken et al. 2023, appendix
on optimisation.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_cli.sae.kernels import rows

_BLOCK = 1024
_FORMATS = (torch.float32, torch.bfloat16)


def adam(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float = 1e-8,
    shrink: Tensor | None = None,
    skip: Tensor | None = None,
    unit: bool = False,
    seed: int = 0,
    copy: Tensor | None = None,
) -> None:
    """Move `param [d_sae, d]` or `[n]` (float32) by `grad`; changes all but `grad`, in place.

    `step` (0-d float32) counts this step already. `shrink` (0-d) divides the gradient; where `skip`
    (0-d) is not 0, nothing changes. `unit` says that rows have unit norm: the gradient's component
    along them is removed and the norm restored (zero rows stay zero). Moments have the shape of
    `param`, in float32, or in bfloat16 and then rounded at random, up or down in proportion, by
    noise that is a function of `seed` and of the place. `copy` (bfloat16) is written with the new
    weights. Deterministic; equal to torch's operations within float32 rounding.
    """
    assert param.dtype == torch.float32 and exp_avg.dtype == exp_avg_sq.dtype
    assert exp_avg.dtype in _FORMATS and param.shape == grad.shape == exp_avg.shape
    tensors = (param, grad, exp_avg, exp_avg_sq, param if copy is None else copy)
    assert all(t.is_contiguous() for t in tensors) and (param.dim() == 2 or not unit)
    if not param.numel():
        return
    one = param.new_ones(())
    count = step.double()
    first, second = 1.0 - beta1**count, 1.0 - beta2**count
    scalars = torch.stack([
        lr / first, 1.0 / second.sqrt(),
        one / (one if shrink is None else shrink), 0.0 * one if skip is None else skip.to(one),
    ]).float()  # fmt: skip
    shared = {"COPY": copy is not None, "NARROW": exp_avg.dtype != torch.float32}
    given = (*tensors, scalars, 1.0 - beta1, beta2, 1.0 - beta2, eps, seed)
    if unit:
        d = param.shape[1]
        _unit_rows[(param.shape[0],)](
            *given, d, **shared, num_warps=rows.warps(d), **rows.halves(d)
        )
    else:
        n = param.numel()
        _anything[(triton.cdiv(n, _BLOCK),)](*given, n, **shared, BLOCK=_BLOCK, num_warps=4)


@triton.jit
def _moved(w, g, m, v, scalars, rise1, beta2, rise2, eps):
    """New weights and moments. `scalars`: rate over its correction, correction, inverse shrink."""
    m += rise1 * (g - m)
    v = beta2 * v + rise2 * g * g
    rate = tl.load(scalars)
    return w - rate * m / (tl.sqrt(v) * tl.load(scalars + 1) + eps), m, v


@triton.jit
def _store(to, x, mask, noise, NARROW: tl.constexpr):
    """float32 as it is, or as bfloat16, up if the bits that are lost exceed the 16 of `noise`."""
    if NARROW:
        bits = x.to(tl.int32, bitcast=True) + (noise & 0xFFFF).to(tl.int32)
        x = (bits & -65536).to(tl.float32, bitcast=True)
    tl.store(to, x, mask=mask)


@triton.jit
def _finish(
    param, exp_avg, exp_avg_sq, copy, places, w, m, v, mask, seed,
    COPY: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    noise = tl.randint(seed, places) if NARROW else 0
    tl.store(param + places, w, mask=mask)
    _store(exp_avg + places, m, mask, noise, NARROW)
    _store(exp_avg_sq + places, v, mask, noise >> 16, NARROW)
    if COPY:
        tl.store(copy + places, w, mask=mask)


@triton.jit(do_not_specialize=["seed"])
def _anything(
    param, grad, exp_avg, exp_avg_sq, copy, scalars, rise1, beta2, rise2, eps, seed, n,
    COPY: tl.constexpr, NARROW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if tl.load(scalars + 3) == 0.0:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = places < n
        w = tl.load(param + places, mask=mask, other=0.0)
        g = tl.load(grad + places, mask=mask, other=0.0).to(tl.float32) * tl.load(scalars + 2)
        m = tl.load(exp_avg + places, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(exp_avg_sq + places, mask=mask, other=0.0).to(tl.float32)
        w, m, v = _moved(w, g, m, v, scalars, rise1, beta2, rise2, eps)
        _finish(param, exp_avg, exp_avg_sq, copy, places, w, m, v, mask, seed, COPY, NARROW)


@triton.jit(do_not_specialize=["seed"])
def _unit_rows(
    param, grad, exp_avg, exp_avg_sq, copy, scalars, rise1, beta2, rise2, eps, seed, d,
    COPY: tl.constexpr, NARROW: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    if tl.load(scalars + 3) == 0.0:
        row = tl.program_id(0).to(tl.int64)
        w, w_tail = rows.load_row(param, row, d, HEAD, TAIL)
        g, g_tail = rows.load_row(grad, row, d, HEAD, TAIL)
        m, m_tail = rows.load_row(exp_avg, row, d, HEAD, TAIL)
        v, v_tail = rows.load_row(exp_avg_sq, row, d, HEAD, TAIL)
        along = rows.dot(g, g_tail, w, w_tail)
        shrink = tl.load(scalars + 2)
        g = (g - along * w) * shrink
        g_tail = (g_tail - along * w_tail) * shrink
        w, m, v = _moved(w, g, m, v, scalars, rise1, beta2, rise2, eps)
        w_tail, m_tail, v_tail = _moved(
            w_tail, g_tail, m_tail, v_tail, scalars, rise1, beta2, rise2, eps
        )
        norm = tl.sqrt(rows.dot(w, w_tail, w, w_tail))
        norm = tl.where(norm > 0.0, norm, 1.0)
        at = tl.arange(0, HEAD)
        rest = HEAD + tl.arange(0, TAIL)
        _finish(
            param, exp_avg, exp_avg_sq, copy, row * d + at, w / norm, m, v, at < d, seed,
            COPY, NARROW,
        )  # fmt: skip
        _finish(
            param, exp_avg, exp_avg_sq, copy, row * d + rest, w_tail / norm, m_tail, v_tail,
            rest < d, seed, COPY, NARROW,
        )  # fmt: skip
