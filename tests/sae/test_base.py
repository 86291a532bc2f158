"""The inference SAE."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_cli.errors import StoreError
from sae_cli.sae.base import SAE


def _tensors(jump: bool = False) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    dec = torch.randn(12, 4, generator=g)
    out = {
        "W_enc": torch.randn(4, 12, generator=g),
        "W_dec": dec / dec.norm(dim=1, keepdim=True),
        "b_enc": torch.randn(12, generator=g),
        "b_dec": torch.randn(4, generator=g),
    }
    return out | ({"threshold": torch.rand(12, generator=g)} if jump else {})


def test_topk_has_at_most_k_active_latents() -> None:
    sae = SAE.from_tensors(_tensors(), "topk", 3)
    f = sae.encode(torch.randn(200, 4))
    assert int((f > 0).sum(1).max()) == 3 and bool((f >= 0).all())


def test_jumprelu_passes_a_pre_activation_only_above_its_threshold() -> None:
    tensors = _tensors(jump=True)
    sae = SAE.from_tensors(tensors, "jumprelu")
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    pre, f = x @ tensors["W_enc"] + tensors["b_enc"], sae.encode(x)
    assert torch.equal(f > 0, pre > tensors["threshold"])
    torch.testing.assert_close(f[f > 0], pre[f > 0])


@pytest.mark.parametrize("arch", ["topk", "relu_l1", "jumprelu"])
def test_leading_dimensions_pass_through(arch: str) -> None:
    sae = SAE.from_tensors(_tensors(arch == "jumprelu"), arch, 3 if arch == "topk" else None)
    x = torch.randn(2, 5, 4)
    assert sae.encode(x).shape == (2, 5, 12) and sae(x).shape == x.shape
    torch.testing.assert_close(sae(x)[1, 2], sae(x[1, 2]))
    assert torch.equal(sae.decode(sae.encode(x)), sae(x))


def test_bfloat16_activations_are_read_in_the_weights_dtype() -> None:
    sae = SAE.from_tensors(_tensors(), "relu_l1")
    x = torch.randn(3, 4).bfloat16()
    assert sae(x).dtype == torch.float32
    assert torch.equal(sae(x), sae(x.float()))


def test_tensors_and_from_tensors_are_inverse() -> None:
    sae = SAE.from_tensors(_tensors(jump=True), "jumprelu")
    again = SAE.from_tensors(sae.tensors(), sae.arch, sae.k)
    x = torch.randn(9, 4)
    assert torch.equal(sae(x), again(x))
    assert sae.to(dtype=torch.float64).encode(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "arch", "k", "complaint"),
    [
        ({}, "gated", None, "unknown architecture 'gated'"),
        ({}, "jumprelu", None, r"missing tensors \['threshold'\]"),
        ({"scale": torch.ones(1)}, "topk", 3, r"unexpected tensors \['scale'\]"),
        ({"b_dec": torch.zeros(5)}, "topk", 3, r"b_dec has shape \(5,\)"),
        ({"W_enc": torch.zeros(48)}, "topk", 3, r"not \[d_in, d_sae\]"),
        ({}, "topk", None, "k=None does not fit"),
        ({}, "topk", 13, "k=13 does not fit"),
        ({}, "relu_l1", 3, "k=3 does not fit"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: dict[str, Any], arch: str, k: int | None, complaint: str
) -> None:
    with pytest.raises(StoreError, match=complaint):
        SAE.from_tensors(_tensors() | change, arch, k)
