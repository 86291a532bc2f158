# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
"""A latent at a time: all gradients of a decoder and encoder row from the tokens that have it.

One program holds a latent's decoder row and walks through its tokens once: for each it gathers
d(loss)/d(x_hat) and z, makes the gradient of the value from the first, and adds to the gradients of
both rows. Nothing is added by two programs, so there are no atomics and one result. The idea of
going latent by latent is sparsify's (its decoder's backward pass); here it includes the encoder.

A latent that many tokens have is cut into parts of 128, each a program, whose sums are added up in
order afterwards; or one dense latent would keep the whole device waiting.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_cli.sae.kernels import rows
from sae_cli.sae.kernels.lists import PART, Gradients, Lists


def backward(
    values: Tensor, lists: Lists, grad: Tensor, z: Tensor, W_dec: Tensor, *, tangent: bool = False
) -> Gradients:
    """All gradients of x_hat = f W_dec + b_dec with f = relu(z W_enc^T + b_enc) at kept entries.

    `values` `[B, k]` or `[n]` and `lists` of the same entries; `grad [B, d]` is d(loss)/d(x_hat);
    `z [B, d]`; `W_dec [d_sae, d]`; the three in float32 or bfloat16. For entry e of token t and
    latent i: values_e = grad_t . W_dec_i where the value is positive; dec_i = sum values * grad_t;
    enc_i = sum values' * z_t; b_enc_i = sum values'. Sums are float32, in the order of the lists.

    `tangent` takes off each row of dec its component along the (unit) row of W_dec, and `squares`
    are those of what is left.
    """
    d_sae, d = W_dec.shape
    assert grad.shape == z.shape and grad.shape[1] == d and lists.ends.numel() == d_sae + 1
    new = torch.empty(0, dtype=torch.float32, device=W_dec.device)
    matrices, vectors = new.new_empty(2, d_sae, d), new.new_empty(2, d_sae)
    out = Gradients(new.new_zeros(values.shape), *matrices, *vectors)
    n_parts = lists.owners.numel()
    part_rows, part_bias = new.new_empty(2, n_parts, d), new.new_empty(n_parts)
    shape = {"num_warps": rows.warps(d), **rows.halves(d)}
    given = (
        values.contiguous(), *lists[:4], grad.contiguous(), z.contiguous(), W_dec.contiguous(),
        out.values, part_rows[0], part_rows[1], part_bias, d_sae, d,
    )  # fmt: skip
    if n_parts:
        _add_parts[(n_parts,)](*given, lists.owners, LENGTH=PART, **shape)
    if d_sae:
        _backward[(d_sae,)](*given, *out[1:], LENGTH=PART, TANGENT=tangent, **shape)
    return out


@triton.jit
def _walk(
    start, end, latent, values, order, sources, grad, z, W_dec, value_grads, d,
    HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """The gradients of a latent from some of its tokens; writes those of the values."""
    w, w_tail = rows.load_row(W_dec, latent, d, HEAD, TAIL)
    dec, dec_tail = rows.zero_row(HEAD, TAIL)
    enc, enc_tail = rows.zero_row(HEAD, TAIL)
    bias = 0.0
    for place in range(start, end):
        entry = tl.load(order + place)
        value = tl.load(values + entry).to(tl.float32)
        if value != 0.0:
            token = tl.load(sources + place)
            g, g_tail = rows.load_row(grad, token, d, HEAD, TAIL)
            x, x_tail = rows.load_row(z, token, d, HEAD, TAIL)
            slope = tl.where(value < 0.0, 0.0, rows.dot(g, g_tail, w, w_tail))
            tl.store(value_grads + entry, slope)
            dec += value * g
            dec_tail += value * g_tail
            enc += slope * x
            enc_tail += slope * x_tail
            bias += slope
    return dec, dec_tail, enc, enc_tail, bias


@triton.jit
def _add_parts(
    values, order, sources, ends, parts, grad, z, W_dec,
    value_grads, part_dec, part_enc, part_bias, d_sae, d, owners,
    LENGTH: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0).to(tl.int64)
    latent = tl.load(owners + part)
    if latent < d_sae:
        start = tl.load(ends + latent) + (part - tl.load(parts + latent)) * LENGTH
        end = tl.minimum(start + LENGTH, tl.load(ends + latent + 1))
        dec, dec_tail, enc, enc_tail, bias = _walk(
            start, end, latent, values, order, sources, grad, z, W_dec, value_grads, d, HEAD, TAIL
        )
        rows.store_row(part_dec, part, dec, dec_tail, d, HEAD, TAIL)
        rows.store_row(part_enc, part, enc, enc_tail, d, HEAD, TAIL)
        tl.store(part_bias + part, bias)


@triton.jit
def _backward(
    values, order, sources, ends, parts, grad, z, W_dec,
    value_grads, part_dec, part_enc, part_bias, d_sae, d,
    to_dec, to_enc, to_bias, squares,
    LENGTH: tl.constexpr, TANGENT: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    latent = tl.program_id(0).to(tl.int64)
    start = tl.load(ends + latent)
    end = tl.load(ends + latent + 1)
    whole = tl.where(end - start > LENGTH, start, end)
    dec, dec_tail, enc, enc_tail, bias = _walk(
        start, whole, latent, values, order, sources, grad, z, W_dec, value_grads, d, HEAD, TAIL
    )
    for part in range(tl.load(parts + latent), tl.load(parts + latent + 1)):
        more, more_tail = rows.load_row(part_dec, part, d, HEAD, TAIL)
        dec += more
        dec_tail += more_tail
        more, more_tail = rows.load_row(part_enc, part, d, HEAD, TAIL)
        enc += more
        enc_tail += more_tail
        bias += tl.load(part_bias + part)
    if TANGENT:
        w, w_tail = rows.load_row(W_dec, latent, d, HEAD, TAIL)
        along = rows.dot(dec, dec_tail, w, w_tail)
        dec -= along * w
        dec_tail -= along * w_tail
    rows.store_row(to_dec, latent, dec, dec_tail, d, HEAD, TAIL)
    rows.store_row(to_enc, latent, enc, enc_tail, d, HEAD, TAIL)
    tl.store(to_bias + latent, bias)
    square = rows.dot(dec, dec_tail, dec, dec_tail) + rows.dot(enc, enc_tail, enc, enc_tail)
    tl.store(squares + latent, square + bias * bias)
