"""A model with an SAE looking on, for texts that somebody types: tokens, latents, edits.

A text is read as it would be inside a packed block, behind the token that ended the document before
it, so that none of its own tokens stands at a first position, which no SAE was trained on. That
token, and those that the SAE's mask leaves out, have no latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sae_cli.errors import DataError, StoreError
from sae_cli.lm import masks
from sae_cli.lm.capture import Capture
from sae_cli.lm.device import pick_device
from sae_cli.lm.encode import end_of_text, special_ids
from sae_cli.lm.load import load_model, load_tokenizer
from sae_cli.lm.outliers import marked
from sae_cli.lm.sites import Tap, find_tap
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import MaskSpec, ModelSpec
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.weights import load_sae


@dataclass(frozen=True)
class Reading:
    """A text, and what the SAE sees in it."""

    ids: Tensor
    """int64 [1, T], with the end-of-text token in front."""
    keep: Tensor
    """bool [T]: the tokens that count."""
    acts: Tensor
    """[T, d_in], raw."""
    latents: Tensor
    """float32 [T, d_sae]; zero where a token does not count."""


class Reader:
    """A language model, for the SAEs that look at it."""

    def __init__(self, spec: ModelSpec, device: str = "auto") -> None:
        """Raises ModelError when the model can't be had."""
        self.spec, self.device = spec, pick_device(device)
        self.model: PreTrainedModel = load_model(spec, self.device)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(spec)

    @cached_property
    def _special(self) -> Any:
        return special_ids(self.tokenizer)

    def ids(self, text: str) -> Tensor:
        """int64 [1, T] of a text, behind an end-of-text token. Raises DataError if it is empty."""
        found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not found:
            raise DataError("the text is empty")
        return torch.tensor([[end_of_text(self.tokenizer), *found]])

    def chat(self, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
        """Messages as the model's chat template writes them, thinking off, up to where the answer
        begins. Raises DataError without a template."""
        if not self.tokenizer.chat_template:
            raise DataError("the model's tokenizer has no chat template")
        known: dict[str, Any] = {}
        if "enable_thinking" in str(self.tokenizer.chat_template):
            known["enable_thinking"] = False
        text = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=answer, **known
        )
        assert isinstance(text, str)
        return text

    def special(self, ids: Tensor) -> Any:
        """bool, of the shape of `ids`: the tokenizer's special tokens."""
        return np.isin(ids.cpu().numpy(), self._special)

    def words(self, ids: Tensor) -> list[str]:
        """The text of each token of `ids [1, T]`, as it stands in a sentence."""
        found = self.tokenizer.convert_ids_to_tokens(ids[0].tolist())
        return [self.tokenizer.convert_tokens_to_string([each]) or str(each) for each in found]


class Live:
    """One SAE at its site."""

    def __init__(self, reader: Reader, folder: Path, own: Mapping[str, Any], limit: float | None):
        """`own` is what the SAE says of itself, `limit` the norm above which a token does not
        count. Raises StoreError when the SAE can't be read, or is not of this model."""
        self.reader, self.own, self.limit = reader, own, limit
        self.mask = MaskSpec.model_validate(own["mask"])
        self.tap: Tap = find_tap(reader.model, own["layer"], own["site"])
        self.transcodes = bool(own.get("out_site"))
        held = load_sae(folder)
        self.cfg = held.cfg
        self.density = held.density
        sae = SAE.from_tensors(held.tensors, held.arch, held.k)
        self.sae = sae.to(reader.device, torch.float32)
        if sae.d_in != self.tap.dim:
            raise StoreError(
                f"{folder}: an SAE of {sae.d_in} dimensions, where the model has {self.tap.dim}"
            )

    def read(self, ids: Tensor) -> Reading:
        """What the SAE sees in `ids` [1, T], the first of which is no part of the text."""
        (acts,) = Capture(self.reader.model, [self.tap])(ids)
        keep = self.keep(ids, acts)
        acts = acts[0].to(self.reader.device)
        return Reading(ids, keep[0], acts, self.sae.encode(acts).float() * keep[0][:, None])

    def keep(self, ids: Tensor, acts: Tensor) -> Tensor:
        """bool [b, T], on the device: the tokens of texts `ids` [b, T] that count, by their
        activations `acts` [b, T, d_in]."""
        reasons = self.reader.special(ids).astype(np.uint8) * np.uint8(masks.SPECIAL)
        reasons[:, : self.mask.first_positions] |= np.uint8(masks.FIRST)
        norms = norms_of(acts.flatten(0, -2)).view(acts.shape[:-1])
        found = masks.keep(marked(reasons, norms, self.limit), self.mask)
        found[:, 0] = False
        return torch.from_numpy(found).to(self.reader.device)
