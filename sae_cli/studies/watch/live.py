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

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
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

ROWS = 512
"""Tokens that are encoded at a time where few features are asked for."""


@dataclass(frozen=True)
class Reading:
    """A text, and what the SAE sees in it."""

    ids: Tensor
    """int64 [1, T], with the end-of-text token in front."""
    reasons: NDArray[np.uint8]
    """[T]: why a token does not count, as bits of `lm.masks`; 0 where it does."""
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

    @cached_property
    def context(self) -> int | None:
        """Tokens that the model can read at once, the one in front included, where it says so."""
        config = self.model.config.get_text_config()
        found = getattr(config, "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    def ids(self, text: str) -> Tensor:
        """int64 [1, T] of a text, behind an end-of-text token. Raises DataError if it is empty."""
        return self.behind_the_end(self.tokens(text))

    def tokens(self, text: str) -> list[int]:
        """The ids of a text alone. Raises DataError if it is empty, or no text of whole
        characters."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError("the text is not UTF-8: it holds parts of characters") from error
        found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not found:
            raise DataError("the text is empty")
        return list(found)

    def behind_the_end(self, ids: Sequence[int]) -> Tensor:
        """int64 [1, T]: `ids` behind an end-of-text token."""
        return torch.tensor([[end_of_text(self.tokenizer), *ids]])

    def chat(self, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
        """Messages as the model's chat template writes them, thinking off, up to where the answer
        begins. Raises DataError without a template, or where it refuses them."""
        if not self.tokenizer.chat_template:
            raise DataError("the model's tokenizer has no chat template")
        known: dict[str, Any] = {}
        if "enable_thinking" in str(self.tokenizer.chat_template):
            known["enable_thinking"] = False
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=answer, **known
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise DataError(f"the model's chat template refuses these messages: {error}") from error
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
        self.written: Tap = self.tap
        if self.transcodes:
            self.written = find_tap(reader.model, own["layer"], own["out_site"])
        """Where its decoder writes: what it reads, or what a transcoder predicts."""
        held = load_sae(folder)
        self.cfg = held.cfg
        self.density = held.density
        sae = SAE.from_tensors(held.tensors, held.arch, held.k)
        self.sae = sae.to(reader.device, torch.float32)
        for tap, dim in ((self.tap, sae.d_in), (self.written, sae.d_out)):
            if dim != tap.dim:
                raise StoreError(
                    f"{folder}: an SAE of {dim} dimensions, where {tap.site} of layer {tap.layer} "
                    f"of the model has {tap.dim}"
                )

    def read(self, ids: Tensor) -> Reading:
        """What the SAE sees in `ids` [1, T], the first of which is no part of the text."""
        acts, reasons, keep = self.seen(ids)
        return Reading(ids, reasons, keep, acts, self.sae.encode(acts).float() * keep[:, None])

    def columns(self, ids: Tensor, features: Sequence[int]) -> tuple[Tensor, Tensor]:
        """float32 [T, len(features)] of `read(ids)`'s latents, and which tokens count, bool [T]:
        ROWS tokens are encoded at a time, so that wide SAEs of long texts need little memory."""
        acts, _, keep = self.seen(ids)
        chosen = torch.tensor(features, device=acts.device)
        found = [self.sae.encode(some).float()[:, chosen] for some in torch.split(acts, ROWS)]
        return torch.cat(found) * keep[:, None], keep

    def seen(self, ids: Tensor) -> tuple[Tensor, NDArray[np.uint8], Tensor]:
        """Of `ids` [1, T], the first of which is no part of the text: the site's activations
        [T, d_in], why a token does not count [T], and those that do, bool [T]."""
        (acts,) = Capture(self.reader.model, [self.tap])(ids)
        reasons = self.reasons(ids, acts)[0]
        acts = acts[0].to(self.reader.device)
        return acts, reasons, torch.from_numpy(reasons == 0).to(self.reader.device)

    def keep(self, ids: Tensor, acts: Tensor) -> Tensor:
        """bool [b, T], on the device: the tokens of texts `ids` [b, T] that count, by their
        activations `acts` [b, T, d_in]."""
        return torch.from_numpy(self.reasons(ids, acts) == 0).to(self.reader.device)

    def reasons(self, ids: Tensor, acts: Tensor) -> NDArray[np.uint8]:
        """[b, T]: why tokens of texts `ids` do not count, 0 where they do. The first is none of the
        text, and never counts, whatever the mask says."""
        found = self.reader.special(ids).astype(np.uint8) * np.uint8(masks.SPECIAL)
        found[:, : self.mask.first_positions] |= np.uint8(masks.FIRST)
        norms = norms_of(acts.flatten(0, -2)).view(acts.shape[:-1])
        found = marked(found, norms, self.limit)
        found = np.where(masks.keep(found, self.mask), np.uint8(0), found)
        found[:, 0] |= np.uint8(masks.FIRST)
        return found
