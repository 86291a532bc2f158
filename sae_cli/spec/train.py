"""What each architecture's training needs beside what all share: one class each, by its name.

An architecture exists for users when it stands here; `sae.forms` says what trains it.
"""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from sae_cli.spec.base import Count, Decay, Fraction, Later
from sae_cli.spec.stages import Site
from sae_cli.spec.train_base import TrainBase


class KTrain(TrainBase):
    """A number of active latents, and an auxiliary loss for dead ones (Gao et al. 2024)."""

    spreads: ClassVar[bool] = True
    sparsity: ClassVar[tuple[str, str]] = ("k", "k")
    """How a name tells the sparsity, and the field that holds it."""
    k: PositiveInt = 32
    """Active latents per token; for batchtopk and matryoshka, their mean over a batch."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of the auxiliary loss."""
    auxk: PositiveInt | None = None
    """Dead latents used by the auxiliary loss; default: the power of two at or below d_in / 2."""


class TranscoderTrain(TrainBase):
    """What may be trained to predict another site than the one it reads (Dunefsky et al. 2024)."""

    out_site: Annotated[Site | None, Later()] = None
    """Site of the same layer that is predicted, behind the one that is read; left out, what is read
    is reconstructed. `mlp_in` to `mlp_out` stands in for an MLP."""
    skip: Annotated[bool, Later()] = False
    """Add a linear map of the input to the prediction (Paulo et al. 2025); for out_site alone."""

    @model_validator(mode="after")
    def _a_skip_goes_somewhere(self) -> TranscoderTrain:
        if self.skip and self.out_site is None:
            raise PydanticCustomError(
                "skip_alone",
                "skip is for a transcoder: give out_site, or leave skip out",
                {"field": "skip"},
            )
        return self


class TopKTrain(KTrain, TranscoderTrain):
    """TopK with an auxiliary loss for dead latents (Gao et al. 2024)."""

    arch: Literal["topk"] = "topk"
    """Architecture."""
    precision: Annotated[Literal["float32", "bfloat16"], Later()] = "float32"
    """Number format of the encoder's product. bfloat16 selects k and some more candidates, whose
    values are computed again in float32, so that the k largest of them are kept."""
    candidates: Annotated[Count, Later()] = 8
    """Candidates beyond k that bfloat16 selects; float32 needs none."""


class BatchTopKTrain(KTrain, TranscoderTrain):
    """TopK over a whole batch, a threshold afterwards (Bussmann et al. 2024)."""

    arch: Literal["batchtopk"]
    """Architecture."""


class MatryoshkaTrain(KTrain):
    """BatchTopK whose first latents must reconstruct alone (Bussmann et al. 2025)."""

    arch: Literal["matryoshka"]
    """Architecture."""
    groups: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (
        1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32,
    )  # fmt: skip
    """Shares of the width, from the first latents on; they add up to 1. Each group and all before
    it reconstruct the input together."""

    @model_validator(mode="after")
    def _groups_fill_the_width(self) -> MatryoshkaTrain:
        total = sum(self.groups)
        if abs(total - 1.0) > 1e-6:
            raise PydanticCustomError(
                "groups_total",
                "groups are shares of the width and add up to 1, not {total}",
                {"total": round(total, 6), "field": "groups"},
            )
        if self.width is not None and any(
            low >= high for low, high in itertools.pairwise((0, *self.group_ends()))
        ):
            raise PydanticCustomError(
                "group_empty",
                "a group of {share} of {width} latents is empty",
                {"share": min(self.groups), "width": self.width, "field": "groups"},
            )
        return self

    def group_ends(self) -> tuple[int, ...]:
        """Where each group ends, in latents; the last one ends with the width."""
        assert self.width is not None
        ends = [round(share * self.width) for share in itertools.accumulate(self.groups)]
        return (*ends[:-1], self.width)


class L1Train(TrainBase):
    """A penalty on the sum of activations, or a kin of it."""

    sparsity: ClassVar[tuple[str, str]] = ("l1_", "l1")
    l1: Annotated[float, Field(ge=0)] | None = None
    """Coefficient of the penalty, for inputs scaled to mean square 1 per dimension; left out,
    sqrt(d_in) / 8 (at d_in = 1600 that is Anthropic's 5); gated: twice that."""
    l1_warmup: Fraction = 0.05
    """Share of the steps over which the coefficient rises linearly from zero."""


class ReluL1Train(L1Train):
    """ReLU with an L1 penalty weighted by decoder norms (Anthropic, April 2024)."""

    spreads: ClassVar[bool] = True
    arch: Literal["relu_l1"]
    """Architecture."""


class TiedTrain(L1Train):
    """Tied encoder and decoder with an L1 penalty, the baseline (Cunningham et al. 2023)."""

    arch: Literal["tied"]
    """Architecture."""


class GatedTrain(L1Train):
    """A gate says whether a latent is on, a magnitude how much (Rajamanoharan et al. 2024)."""

    arch: Literal["gated"]
    """Architecture."""
    beta1: Decay = 0.0
    """Adam's first-moment decay; the paper trains without first moments."""


class PAnnealTrain(L1Train):
    """A penalty on f^p whose p falls from 1 towards 0 (Karvonen et al. 2024)."""

    arch: Literal["p_anneal"]
    """Architecture."""
    p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Where the exponent ends."""
    p_steps: PositiveInt = 10
    """Number of equal steps by which it falls."""
    p_start: Fraction = 0.1
    """Share of the training after which the exponent begins to fall."""
    p_end: Fraction = 0.8
    """Share of the training after which it stays."""

    @model_validator(mode="after")
    def _it_starts_before_it_ends(self) -> PAnnealTrain:
        if self.p_start > self.p_end:
            raise PydanticCustomError(
                "p_order",
                "p_start {start} comes after p_end {end}",
                {"start": self.p_start, "end": self.p_end, "field": "p_start"},
            )
        return self


class JumpReluTrain(TranscoderTrain):
    """JumpReLU trained towards a target L0 (Rajamanoharan et al. 2024; Gemma Scope)."""

    spreads: ClassVar[bool] = True
    sparsity: ClassVar[tuple[str, str]] = ("l0_", "l0")
    arch: Literal["jumprelu"]
    """Architecture."""
    l0: PositiveFloat = 32.0
    """Target: mean number of active latents per token."""
    l0_coefficient: PositiveFloat = 1.0
    """Weight of the penalty (L0 / target - 1)^2, before the controller adjusts it."""
    l0_warmup: Fraction = 0.1
    """Share of the steps over which the penalty rises linearly from zero."""
    beta1: Decay = 0.0
    """Adam's first-moment decay; the paper trains without first moments."""
    bandwidth: PositiveFloat = 1.0
    """Width of the rectangle of the straight-through estimator, in scaled pre-activation units."""
    threshold_init: PositiveFloat | None = None
    """Initial threshold, in scaled pre-activation units; left out, such that on the first batch
    every latent fires equally often and L0 is four times the target."""


class JumpReluTanhTrain(TrainBase):
    """JumpReLU with a tanh penalty (Anthropic, January 2025)."""

    sparsity: ClassVar[tuple[str, str]] = ("tanh", "tanh")
    arch: Literal["jumprelu_tanh"]
    """Architecture."""
    tanh: Annotated[float, Field(ge=0)] | None = None
    """Price of an active latent, for inputs scaled to mean square 1 per dimension; left out,
    d_in / 400, so that a latent must explain a quarter percent of the variance (Anthropic: 10 to
    20, at d_in of some thousands)."""
    tanh_warmup: Fraction = 1.0
    """Share of the steps over which the price rises linearly from zero."""
    tanh_scale: PositiveFloat = 4.0
    """How fast the penalty saturates: tanh(scale * activation * decoder norm)."""
    pre_act: Annotated[float, Field(ge=0)] = 3e-6
    """Coefficient of the loss that pulls silent latents towards their threshold."""
    bandwidth: PositiveFloat = 2.0
    """Width of the rectangle of the straight-through estimator, in scaled pre-activation units."""
    threshold_init: PositiveFloat = 0.1
    """Initial threshold, in scaled pre-activation units."""


Train = (
    TopKTrain
    | BatchTopKTrain
    | MatryoshkaTrain
    | JumpReluTrain
    | JumpReluTanhTrain
    | ReluL1Train
    | PAnnealTrain
    | GatedTrain
    | TiedTrain
)
ARCHITECTURES: dict[str, type[Train]] = {
    "topk": TopKTrain,
    "batchtopk": BatchTopKTrain,
    "matryoshka": MatryoshkaTrain,
    "jumprelu": JumpReluTrain,
    "jumprelu_tanh": JumpReluTanhTrain,
    "relu_l1": ReluL1Train,
    "p_anneal": PAnnealTrain,
    "gated": GatedTrain,
    "tied": TiedTrain,
}
