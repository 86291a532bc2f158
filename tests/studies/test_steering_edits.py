"""Edits of the residual stream, against loops over tokens and latents in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.studies.steer.edits import (
    Applied,
    Push,
    ablate,
    add,
    clamp,
    nothing,
    rebuild,
    scale,
    when,
)

D, WIDTH, CONTEXT = 6, 12, 5


@pytest.fixture(scope="module")
def sae() -> SAE:
    dice = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=dice), dim=1)
    return SAE("topk", rows.T.contiguous(), rows, torch.zeros(WIDTH), torch.ones(D), k=3)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, CONTEXT, D, generator=torch.Generator().manual_seed(1))


def by_hand(x: Tensor, positions: list[int], dx: Callable[[Tensor], Tensor]) -> Tensor:
    out = x.double().clone()
    for row in range(len(x)):
        for at in positions:
            out[row, at] += dx(x[row, at]).double()
    return out


def rows_of(
    sae: SAE, x: Tensor, latents: list[int], change: Callable[[int, float], float]
) -> Tensor:
    f = sae.encode(x[None])[0]
    total = torch.zeros(D, dtype=torch.float64)
    for i in latents:
        total += change(i, float(f[i])) * sae.W_dec[i].double()
    return total


def test_every_edit_is_its_formula_and_keeps_the_error_of_the_sae(sae: SAE, x: Tensor) -> None:
    which, to, by = [1, 4, 7], torch.tensor([2.0, 0.0, 0.5]), torch.tensor([3.0, 0.0, 1.0])
    targets, factors = (
        dict(zip(which, to.tolist(), strict=True)),
        dict(zip(which, by.tolist(), strict=True)),
    )
    v = torch.arange(D).float()
    cases: list[tuple[Push, Callable[[Tensor], Tensor]]] = [
        (add(v), lambda x: v),
        (clamp(sae, which, to), lambda x: rows_of(sae, x, which, lambda i, f: targets[i] - f)),
        (
            scale(sae, which, by),
            lambda x: rows_of(sae, x, which, lambda i, f: (factors[i] - 1) * f),
        ),
        (ablate(sae, which), lambda x: rows_of(sae, x, which, lambda i, f: -f)),
        (rebuild(sae), lambda x: sae.decode(sae.encode(x[None]))[0] - x),
    ]
    for push, dx in cases:
        found = Applied([(push, len(x))])(x).double()
        assert torch.allclose(found, by_hand(x, [CONTEXT - 1], dx), atol=1e-5)


@pytest.mark.parametrize(
    ("at", "prompt", "later"),
    [("last", [CONTEXT - 1], False), ("generated", [], True), ("all", [1, 2, 3, 4], True)],
)
def test_where_an_edit_is_made(at: str, prompt: list[int], later: bool, x: Tensor) -> None:
    v = torch.ones(D)
    edit = Applied([(add(v, at), len(x))])  # type: ignore[arg-type]
    assert torch.allclose(edit(x).double(), by_hand(x, prompt, lambda _: v), atol=1e-6)
    token = x[:, :1]
    assert torch.equal(edit(token), token + 1) if later else torch.equal(edit(token), token)


def test_no_edit_gives_back_the_bits_in_the_models_own_dtype(x: Tensor) -> None:
    half = x.bfloat16()
    for at in ("last", "generated", "all"):
        edit = Applied([(Push(nothing().change, at), 4)])
        assert edit(half).dtype == torch.bfloat16 and torch.equal(edit(half), half)


def test_a_gate_looks_at_the_last_prompt_token_once(sae: SAE, x: Tensor) -> None:
    v = torch.ones(D)
    f = sae.encode(x[:, -1])
    latent = int(((f > 0).sum(0) == 2).nonzero()[0])
    fires, above = f[:, latent], float(f[:, latent].max()) / 2
    edit = Applied([(when(add(v, "all"), sae, latent, above), len(x))])
    moved = (edit(x) != x).flatten(1).any(1)
    assert moved.tolist() == (fires > above).tolist() and 0 < moved.sum() < 4
    token = torch.zeros(len(x), 1, D)
    assert (edit(token)[:, 0, 0] == 1).tolist() == moved.tolist()


def test_rows_of_one_batch_have_pushes_of_their_own(sae: SAE, x: Tensor) -> None:
    one, two = add(torch.ones(D)), ablate(sae, [0, 1, 2], "all")
    together = Applied([(one, 1), (two, 3)])(x)
    assert torch.equal(together[:1], Applied([(one, 1)])(x[:1]))
    assert torch.equal(together[1:], Applied([(two, 3)])(x[1:]))


def test_what_is_told_of_a_push_tells_it_from_every_other(sae: SAE) -> None:
    def pushes() -> list[Push]:
        v, to = torch.arange(D).float(), torch.tensor([2.0, 0.5])
        nearly = torch.nextafter(v, torch.tensor(9.0))
        return [
            nothing(), add(v), add(nearly), clamp(sae, [1, 4], to), clamp(sae, [4, 1], to),
            clamp(sae, [1, 4], to.flip(0)), scale(sae, [1, 4], to), ablate(sae, [1, 4]),
            rebuild(sae), when(add(v), sae, 3, 0.5), when(add(v), sae, 3, 0.25),
            when(add(v), sae, 2, 0.5), when(rebuild(sae), sae, 3, 0.5),
        ]  # fmt: skip

    told = [push.told for push in pushes()]
    assert all(told) and len({*told}) == len(told) and told == [push.told for push in pushes()]
