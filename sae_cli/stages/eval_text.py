"""The held-out text of an evaluation, batch by batch, as it was packed and at longer contexts.

Blocks run on across documents, so that n consecutive ones are exactly what packing at n times the
context would give, but for the first positions that do not count: joined, only those of the first
block are masked. What is looked at apart is told here: positions beyond the context that training
saw, and the tokens of chats, which `lm.turns` finds by the tokenizer's own template.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from sae_cli.lm import masks
from sae_cli.lm.load import load_tokenizer
from sae_cli.lm.turns import Chats, chats_of, roles_of
from sae_cli.spec.stages import EvalSpec, ModelSpec
from sae_cli.stages.eval_place import Batch, Place, Site
from sae_cli.stages.eval_sae import SPLIT
from sae_cli.store.blocks import BlockReader

CHAT, PLAIN, BEYOND = "chat", "plain", "beyond"
NO_CHATS = "the tokenizer's chat template has no special token that would tell chats"
NO_ROLE = "what the chat template writes before a message does not tell whose it is"
Parts = dict[str, NDArray[np.bool_]]


class Text:
    """The held-out blocks that are used, `joined` of them to a context."""

    def __init__(
        self, blocks: BlockReader, spec: EvalSpec, device: torch.device, joined: int = 1
    ) -> None:
        self._blocks, self._device, self.joined = blocks, device, joined
        there, packed = blocks.n_blocks(SPLIT), blocks.context
        used = there if spec.tokens is None else min(there, -(-spec.tokens // packed))
        self.context = packed * joined
        self._count = used // joined
        self.per = max(1, spec.batch_tokens // self.context)
        """Contexts in a batch, at most."""
        self.tokens = self._count * self.context
        self.starts = range(0, self._count, self.per)
        some = [np.unique(self._rows("document", start)) for start in self.starts]
        self._numbers = np.unique(np.concatenate(some))
        self.documents = len(self._numbers)
        """How many documents the text is of."""
        self._parts: Parts = {}
        if joined > 1:
            beyond = np.arange(self.context) >= packed
            self._parts[BEYOND] = np.broadcast_to(beyond, (self._count, self.context))
        self.absent: dict[str, str] = {}
        """What can't be looked at apart, and why."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What is looked at apart."""
        return tuple(self._parts)

    def tell_chats(self, chats: Chats | None) -> None:
        """Look at chats apart."""
        if chats is None:
            self.absent |= dict.fromkeys((CHAT, PLAIN), NO_CHATS)
            return
        read = [(self._rows("tokens", s), self._rows("document", s)) for s in self.starts]
        tokens, document = (np.concatenate(each) for each in zip(*read, strict=True))
        chat = np.isin(document, np.unique(document[np.isin(tokens, chats.marks)]))
        self._parts |= {CHAT: chat, PLAIN: ~chat}
        for role, said in roles_of(tokens.reshape(-1), chats).items():
            self._parts[f"{CHAT}:{role}"] = said.reshape(tokens.shape) & chat
        if not chats.headers:
            self.absent[f"{CHAT}:role"] = NO_ROLE

    def _rows(self, column: str, start: int) -> NDArray[np.int64]:
        """Of a batch [b, context]."""
        stop = min(start + self.per, self._count)
        rows = getattr(self._blocks, column)(SPLIT, start * self.joined, stop * self.joined)
        joined: NDArray[np.int64] = rows.reshape(stop - start, self.context)
        return joined

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        """Tokens so far, and a batch."""
        for start in self.starts:
            stop = min(start + self.per, self._count)
            tokens = torch.from_numpy(self._rows("tokens", start).astype(np.int64))
            reasons = self._rows("reasons", start).astype(np.uint8)
            reasons[:, self._blocks.context :] &= np.uint8(~masks.FIRST & 0xFF)
            found = np.searchsorted(self._numbers, self._rows("document", start))
            parts = {name: self._moved(part[start:stop]) for name, part in self._parts.items()}
            yield (
                stop * self.context,
                Batch(tokens.to(self._device), reasons, self._moved(found), parts),
            )

    def _moved(self, array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


class Texts:
    """The text as it was packed, and at each longer context that is asked for."""

    def __init__(
        self, blocks: BlockReader, spec: EvalSpec, model: PreTrainedModel, device: torch.device
    ) -> None:
        self.packed = Text(blocks, spec, device)
        self.longer: dict[str, Text] = {}
        """By the name of their slices."""
        self.passes = 1
        """How often a round goes over all of it."""
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        for length in spec.contexts:
            name = f"context={length}"
            if most is not None and length > most:
                why = f"the model has {most} positions"
                self.packed.absent |= {f"{name}:kept": why, f"{name}:{BEYOND}": why}
                continue
            self.longer[name] = Text(blocks, spec, device, length // blocks.context)

    def tell_chats(self, model: ModelSpec) -> None:
        """Look at chats apart, in the text as it was packed."""
        self.packed.tell_chats(chats_of(load_tokenizer(model)))

    @property
    def all(self) -> dict[str | None, Text]:
        """Each by the name of its slices; None: as it was packed, which has all of them."""
        whole: dict[str | None, Text] = {None: self.packed}
        whole.update(self.longer)
        return whole

    @property
    def tokens(self) -> int:
        """Of a pass over all of it."""
        return sum(text.tokens for text in self.all.values())

    @property
    def batches(self) -> int:
        """Of a pass over all of it."""
        return sum(len(text.starts) for text in self.all.values())

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch, at most."""
        return max(text.per * text.context for text in self.all.values())

    def place(self, read: Site, site: Site) -> Place:
        """Where SAEs that read `read` and are judged at `site` meet this text."""
        made, *rest = (
            Place(read, site, text.documents, text.parts, text.absent) for text in self.all.values()
        )
        made.longer = dict(zip(self.longer, rest, strict=True))
        return made
