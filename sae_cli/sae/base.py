"""The inference SAE: what a finished folder holds and what evaluation splices into a model.

All scaling of training is folded away: inputs and reconstructions are raw activations, decoder
rows have unit norm, and `b_dec` is not subtracted before encoding (it is folded into `b_enc`).
No training here, no files: `store.weights` writes the tensors, the architectures make them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.sae.selection import top_k

Arch = Literal["topk", "relu_l1", "jumprelu"]
ARCHS: tuple[str, ...] = get_args(Arch)


@dataclass(frozen=True)
class SAE:
    """A sparse autoencoder over activations of dimension d_in with d_sae latents.

    x_hat = f W_dec + b_dec, f = act(x W_enc + b_enc), where act is

    - topk: the k largest entries, if positive (Gao et al. 2024, arXiv 2406.04093, section 2.3);
    - relu_l1: max(0, .) (Bricken et al. 2023);
    - jumprelu: pre * [pre > threshold], thresholds at or above zero (Rajamanoharan et al. 2024,
      arXiv 2407.14435, section 3).

    A transcoder predicts another site, of dimension d_out, in its raw units; d_out is d_in
    elsewhere. With a skip, its x_hat has x W_skip^T besides.
    """

    arch: Arch
    W_enc: Tensor
    """[d_in, d_sae]"""
    W_dec: Tensor
    """[d_sae, d_out], rows of unit norm"""
    b_enc: Tensor
    """[d_sae]"""
    b_dec: Tensor
    """[d_out], raw activation units"""
    threshold: Tensor | None = None
    """[d_sae], jumprelu only, raw activation units"""
    k: int | None = None
    """topk only"""
    W_skip: Tensor | None = None
    """[d_out, d_in], transcoders with a skip only"""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], arch: str, k: int | None = None) -> SAE:
        """Build from named tensors, as `tensors()` gives them.

        Raises StoreError when the architecture is unknown, a tensor is missing, superfluous or
        of the wrong shape, or k does not fit the architecture.
        """
        if arch not in ARCHS:
            raise StoreError(f"unknown architecture {arch!r}; there are {', '.join(ARCHS)}")
        wanted = {"W_enc", "W_dec", "b_enc", "b_dec"} | (
            {"threshold"} if arch == "jumprelu" else set()
        )
        if set(tensors) - {"W_skip"} != wanted:
            missing, extra = sorted(wanted - set(tensors)), sorted({*tensors} - wanted)
            raise StoreError(f"{arch} SAE: missing tensors {missing}, unexpected tensors {extra}")
        if tensors["W_enc"].dim() != 2:
            raise StoreError(f"W_enc has shape {tuple(tensors['W_enc'].shape)}, not [d_in, d_sae]")
        d_in, d_sae = tensors["W_enc"].shape
        rows, bias = tuple(tensors["W_dec"].shape), tuple(tensors["b_dec"].shape)
        d_out = rows[1] if rows == (d_sae, *bias) else d_in  # they agree, or are wrong
        shapes = {
            "W_dec": (d_sae, d_out), "b_enc": (d_sae,), "b_dec": (d_out,), "threshold": (d_sae,),
            "W_skip": (d_out, d_in),
        }  # fmt: skip
        for name in sorted({*tensors} - {"W_enc"}):
            if tuple(tensors[name].shape) != shapes[name]:
                raise StoreError(
                    f"{name} has shape {tuple(tensors[name].shape)}; W_enc {d_in} x {d_sae} "
                    f"asks for {shapes[name]}"
                )
        if (arch == "topk") != (k is not None) or (k is not None and not 1 <= k <= d_sae):
            raise StoreError(f"k={k} does not fit a {arch} SAE with {d_sae} latents")
        return cls(cast(Arch, arch), k=k, **tensors)

    def tensors(self) -> dict[str, Tensor]:
        """The named tensors, contiguous: W_enc, W_dec, b_enc, b_dec; for jumprelu, threshold."""
        out = {"W_enc": self.W_enc, "W_dec": self.W_dec, "b_enc": self.b_enc, "b_dec": self.b_dec}
        if self.threshold is not None:
            out["threshold"] = self.threshold
        if self.W_skip is not None:
            out["W_skip"] = self.W_skip
        return {name: tensor.contiguous() for name, tensor in out.items()}

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SAE:
        """The same SAE on another device or in another number format."""
        moved = {n: t.to(device=device, dtype=dtype) for n, t in self.tensors().items()}
        return SAE(self.arch, k=self.k, **moved)

    def encode(self, x: Tensor) -> Tensor:
        """Latents `f [..., d_sae]` of raw activations `x [..., d_in]`, in the weights' dtype."""
        flat = x.reshape(-1, self.d_in).to(self.W_enc.dtype)
        pre = torch.addmm(self.b_enc, flat, self.W_enc)
        if self.arch == "topk":
            assert self.k is not None
            values, indices = top_k(pre, self.k)
            f = torch.zeros_like(pre).scatter_(1, indices, values)
        elif self.arch == "jumprelu":
            assert self.threshold is not None
            f = pre.relu() * (pre > self.threshold)
        else:
            f = pre.relu()
        return f.reshape(*x.shape[:-1], self.d_sae)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction `[..., d_out]`, raw activation units, of latents `f [..., d_sae]`; a skip
        needs the activations `x [..., d_in]` that they are of."""
        flat = torch.addmm(self.b_dec, f.reshape(-1, self.d_sae), self.W_dec)
        if self.W_skip is not None:
            assert x is not None, "a skip needs the input"
            flat.addmm_(x.reshape(-1, self.d_in).to(flat.dtype), self.W_skip.T)
        return flat.reshape(*f.shape[:-1], self.d_out)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of `x`: `[..., d_in]` to `[..., d_out]`."""
        return self.decode(self.encode(x), x)

    __call__ = forward
