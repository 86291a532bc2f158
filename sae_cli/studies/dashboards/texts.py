"""The text that features are watched on: a workspace's blocks, the same packed again, or a file.

What is shown is training text, for that is what an SAE's features were made of; nothing is measured
on it that a reader could take for a held-out number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sae_cli.errors import DataError
from sae_cli.lm import masks
from sae_cli.lm.encode import Encoder, end_of_text, special_ids
from sae_cli.lm.pack import Packer
from sae_cli.lm.sources import documents
from sae_cli.spec.stages import DataSpec, MaskSpec, Source
from sae_cli.store.blocks import BlockReader

SPLIT = "train"
AT_ONCE = 64
"""Documents that are made tokens together."""


@dataclass(frozen=True, eq=False)
class Text:
    """Blocks of tokens."""

    tokens: NDArray[np.int32]
    """[n, C]"""
    reasons: NDArray[np.uint8]
    """[n, C]: why a token may not count, see `lm.masks`."""
    name: str
    """What it is, for people."""


def stored_text(folder: Path, tokens: int) -> Text:
    """The first `tokens` training tokens, rounded up to blocks, of a workspace's tokens stage."""
    reader = BlockReader(folder)
    n = min(-(-tokens // reader.context), reader.n_blocks(SPLIT))
    return Text(
        reader.tokens(SPLIT, 0, n), reader.reasons(SPLIT, 0, n), f"training text ({folder.name})"
    )


def packed_text(data: DataSpec, tokenizer: PreTrainedTokenizerBase, tokens: int) -> Text:
    """The same blocks, packed again from their sources."""
    found, left = list[Any](), -(-tokens // data.context)
    for group in Packer(data, tokenizer, group=1).blocks():
        if group.part == SPLIT:
            found.append(group)
            left -= len(group.tokens)
        if left <= 0:
            break
    return Text(
        np.concatenate([g.tokens for g in found]),
        np.concatenate([g.reasons for g in found]),
        "training text, packed again",
    )


def file_text(
    path: Path, tokenizer: PreTrainedTokenizerBase, mask: MaskSpec, context: int, tokens: int
) -> Text:
    """The documents of a .jsonl (field `text`) or .txt file, one behind the other, cut into blocks
    of `context`; what is left over makes no block, unless there is no other.

    Raises DataError: no such file, no such field, or nothing in it.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    ids = np.fromiter(_ids(path, tokenizer, tokens), np.int32)
    if len(ids) < 2:
        raise DataError(f"{path} holds no text")
    context = min(context, len(ids))
    blocks = ids[: len(ids) // context * context].reshape(-1, context)
    special = np.isin(blocks, special_ids(tokenizer))
    reasons = special.astype(np.uint8) * np.uint8(masks.SPECIAL)
    reasons[:, : mask.first_positions] |= np.uint8(masks.FIRST)
    return Text(blocks, reasons, path.name)


def _ids(path: Path, tokenizer: PreTrainedTokenizerBase, tokens: int) -> Iterator[int]:
    encoder, given, some = Encoder(tokenizer, chat_template=False), 1, list[Any]()
    yield end_of_text(tokenizer)

    def made() -> Iterator[int]:
        for each in encoder.encode(some):
            yield from each.ids.tolist()
        some.clear()

    for document in documents(Source(path=str(path)), seed=0):
        some.append(document)
        if len(some) == AT_ONCE:
            for token in made():
                yield token
                given += 1
            if given >= tokens:
                return
    yield from made()


def words_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token as it stands behind a word, so with the space that it brings; an id
    that the tokenizer lacks (an embedding may have more rows) has none."""
    known = [i for i in ids if 0 <= i < len(tokenizer)]
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    begin, *said = tokenizer.batch_decode(
        [anchor, *([*anchor, i] for i in known)], clean_up_tokenization_spaces=False
    )
    told = {
        i: text[len(begin) :] if text.startswith(begin) else tokenizer.decode([i])
        for i, text in zip(known, said, strict=True)
    }
    return [told.get(i, "") for i in ids]
