"""A document becomes token ids, and belongs to training or to the held-out part by its content.

The tokenizer adds nothing of its own; one end-of-text token closes every document. Messages are
always rendered by the chat template, plain text only if asked to. The part is a hash of the
content, so that equal documents, wherever they come from, never stand on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, get_args

import jinja2
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sae_cli.errors import DataError, ModelError
from sae_cli.lm.sources import RawDocument
from sae_cli.spec.stages import DataSpec

Part = Literal["train", "heldout"]
PARTS: tuple[Part, ...] = get_args(Part)
_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")
_MARGIN, _LEAST, _LEAST_REPEATED = 1.25, 0.01, 0.1


def special_ids(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Ids of every token that the tokenizer calls special, ascending."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return np.array(sorted(added | set(tokenizer.all_special_ids)), dtype=np.int64)


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that closes a document: what stood between documents in pretraining.

    That is the end-of-sequence token, but on a chat tokenizer this one ends a turn (`<|im_end|>` on
    Qwen, `<|eot_id|>` on Llama 3): there it is `<|endoftext|>` or `<|end_of_text|>`, where they
    are special tokens. Raises ModelError if there is neither.
    """
    special: dict[str, int] = {
        str(t): i for i, t in tokenizer.added_tokens_decoder.items() if t.special
    }
    for name in _END_OF_TEXT:
        if name in special:
            return special[name]
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(
            "the tokenizer has no end-of-text token, which closes every document",
            hint="set `eos_token` in the model folder's tokenizer_config.json.",
        )
    return int(tokenizer.eos_token_id)


def heldout_share(data: DataSpec) -> float:
    """The share of documents that is held out.

    A quarter more than the share of tokens asked for, so that the held-out part is full before
    training is, and at least 1 %, so that it does not hang on a handful of documents; at least
    10 % where a source repeats, because its held-out documents come from one pass only. What is
    held out beyond the need is left unused. The quarter is dropped where it would starve training.
    """
    share = data.heldout_tokens / (data.tokens + data.heldout_tokens)
    repeats = any(source.repeat for source in data.sources)
    least = _LEAST_REPEATED if repeats else _LEAST
    return min(max(_MARGIN * share, least), max(share, 0.5))


def part_of(document: RawDocument, seed: int, share: float) -> Part:
    """`heldout` for a `share` of all contents, by sha256 of seed and content.

    Of a chat, who says what counts, and no further field: the same chat is on one side only.
    """
    chat = document.messages
    turns = None if chat is None else [[m["role"], m["content"]] for m in chat]
    content = [document.text, turns]
    said = json.dumps([seed, content], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(said.encode("ascii")).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < share * 2**64 else "train"


class Encoder:
    """Documents to token ids with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat_template: bool) -> None:
        """Raises ModelError if the tokenizer has no end-of-text token, or no chat template."""
        self._tokenizer = tokenizer
        self._end = end_of_text(tokenizer)
        self._wrap = chat_template
        template = tokenizer.chat_template
        self._known = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
        if chat_template:
            self._need_template()

    def encode(self, documents: Sequence[RawDocument]) -> list[NDArray[np.int32]]:
        """Ids of each document with the end-of-text token behind; no ids at all if it is empty.

        Raises ModelError (messages, but no chat template) and DataError (messages that the
        template refuses).
        """
        texts = [self._text(document) for document in documents]
        if not texts:
            return []
        batch = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        return [np.array([*i, self._end] if i else [], np.int32) for i in batch["input_ids"]]

    def _text(self, document: RawDocument) -> str:
        messages = document.messages
        if messages is None:
            assert document.text is not None
            if not self._wrap or not document.text.strip():
                return document.text
            messages = ({"role": "user", "content": document.text},)
        self._need_template()
        try:
            rendered = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, **self._known
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise DataError(
                f"{document.where}: the model's chat template refuses these messages: {error}",
                hint="the roles have to be the ones, in the order, that this model knows.",
            ) from error
        assert isinstance(rendered, str)
        return rendered

    def _need_template(self) -> None:
        if not self._tokenizer.chat_template:
            raise ModelError(
                "chat documents need a chat template, and this model's tokenizer has none",
                hint="use an instruct model, or plain text with `data.chat_template: false`.",
            )
