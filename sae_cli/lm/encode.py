"""A document becomes token ids, and belongs to training or to the held-out part by its content.

The tokenizer adds nothing of its own; one end-of-text token closes every document. Messages are
always rendered by the chat template, plain text only if asked to. The part is a hash of the
content, spaces and lookalike characters aside, so that equal documents, wherever they come from,
never stand on both sides.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jinja2
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sae_cli.errors import DataError, ModelError
from sae_cli.lm import masks
from sae_cli.lm.roles import Span, inside, kept_spans
from sae_cli.lm.sources import Message, RawDocument
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
    Texts that differ in spaces or compatible characters alone (NFKC) are the same: templates and
    tokenizers make the same tokens of many of them.
    """
    chat = document.messages
    turns = None if chat is None else [[m["role"], _folded(m["content"])] for m in chat]
    content = [None if document.text is None else _folded(document.text), turns]
    said = json.dumps([seed, content], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(said.encode("ascii")).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < share * 2**64 else "train"


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


class Tokens(NamedTuple):
    """A document for the model, closed by the end-of-text token; both empty if it is."""

    ids: NDArray[np.int32]
    """Token ids [n]."""
    reasons: NDArray[np.uint8]
    """ROLE where no message that counts is touched [n]; zeros where roles don't matter."""


NOTHING = Tokens(np.zeros(0, np.int32), np.zeros(0, np.uint8))


class Encoder:
    """Documents to tokens with one tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: bool,
        train_on: Sequence[str] | None = None,
    ) -> None:
        """`chat_template` wraps plain text; of chats, messages by the roles `train_on` count.

        Raises ModelError if the tokenizer has no end-of-text token, no chat template, or, with
        `train_on`, no way to say which characters a token is of.
        """
        self._tokenizer = tokenizer
        self._end = end_of_text(tokenizer)
        self._wrap = chat_template
        self._roles = train_on
        template = tokenizer.chat_template
        self._known = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
        if chat_template:
            self._need_template()
        if train_on is not None and not tokenizer.is_fast:
            raise ModelError(
                "data.train_on needs a tokenizer that says where its tokens stand in the text, "
                "and this model's does not (it is not a fast one)",
                hint="leave data.train_on out for this model.",
            )

    def encode(self, documents: Sequence[RawDocument]) -> list[Tokens]:
        """Tokens of each document. With `train_on`, a token of a chat counts if at least one of its
        characters is in a message by one of these roles; plain text counts as a whole.

        Raises ModelError (messages, but no chat template) and DataError (messages that the
        template refuses, or that can't be found in what it makes of them).
        """
        texts, spans = [], []
        for document in documents:
            chat = self._chat(document)
            if chat is None:
                assert document.text is not None
                text, kept = document.text, None
            elif self._roles is None:
                text, kept = self._rendered(chat, document.where), None
            else:
                text, kept = self._located(chat, self._roles, document.where)
            texts.append(text)
            spans.append(kept)
        if not texts:
            return []
        located = any(kept is not None for kept in spans)
        batch = self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=located,
            verbose=False,
        )
        offsets = batch["offset_mapping"] if located else [()] * len(texts)
        return [
            self._tokens(ids, at, kept)
            for ids, at, kept in zip(batch["input_ids"], offsets, spans, strict=True)
        ]

    def _tokens(self, ids: Sequence[int], offsets: Any, spans: Sequence[Span] | None) -> Tokens:
        if not ids:
            return NOTHING
        reasons = np.zeros(len(ids) + 1, np.uint8)
        if spans is not None:
            reasons[:-1][~inside(np.array(offsets, np.int64), spans)] = masks.ROLE
            reasons[-1] = masks.ROLE
        return Tokens(np.array([*ids, self._end], np.int32), reasons)

    def _chat(self, document: RawDocument) -> tuple[Message, ...] | None:
        """The messages; plain text is one user's if it is to be wrapped, else None."""
        if document.messages is not None:
            return document.messages
        assert document.text is not None
        wrapped = self._wrap and document.text.strip()
        return ({"role": "user", "content": document.text},) if wrapped else None

    def _located(
        self, chat: Sequence[Message], roles: Sequence[str], where: str
    ) -> tuple[str, list[Span]]:
        def render(contents: Sequence[str]) -> str:
            said = zip(chat, contents, strict=True)
            return self._rendered([message | {"content": text} for message, text in said], where)

        kept = [message["role"] in roles for message in chat]
        return kept_spans([message["content"] for message in chat], kept, render, where)

    def _rendered(self, chat: Sequence[Message], where: str) -> str:
        self._need_template()
        try:
            rendered = self._tokenizer.apply_chat_template(
                [dict(message) for message in chat], tokenize=False, **self._known
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise DataError(
                f"{where}: the model's chat template refuses these messages: {error}",
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
