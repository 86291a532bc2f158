"""What a model says to prompts while it is pushed: the first token's odds, and whole replies.

Greedy. Prompts of one length share a forward, without padding, and so do several pushes of the same
prompts: who else is in the batch is never seen. Keys and values are kept, so that an edit at the
last prompt token is made once, when the prompt is read, and what is behind it sees it. Answers are
kept: a study that was killed does not ask again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.lm.device import input_device
from sae_cli.lm.encode import end_of_text
from sae_cli.lm.splice import editing
from sae_cli.studies.bench import Bench
from sae_cli.studies.kept import LAST_ANSWER, Answer, Kept
from sae_cli.studies.steer.chat import Asked, by_length
from sae_cli.studies.steer.edits import Applied, Push, nothing

Floats = NDArray[np.float64]
Ids = tuple[int, ...]
OVER = -1
"""In the place of a token: the reply has ended."""
WIDER = 4
"""How many times the tokens of another batch one may have that is read a token at a time."""


@dataclass(frozen=True)
class Batch:
    """Rows of one forward: each push beside some prompts, one push after the other."""

    ids: Tensor
    """int64 [b, L]."""
    pushes: list[tuple[Push, int]]
    """And how many rows each has."""
    at: list[tuple[int, int]]
    """Of each row: the number of its push and of its prompt."""

    @property
    def question(self) -> Any:
        """What it asks, of one SAE."""
        return [self.ids.tolist(), [[push.told, push.at, count] for push, count in self.pushes]]


class Speaker:
    """The model of a bench, edited at its site."""

    def __init__(self, bench: Bench, kept: Kept) -> None:
        self._bench, self._model, self.kept = bench, bench.model, kept
        self._ends = torch.tensor(sorted(_ends(bench.model, bench.tokenizer)))

    def gaps(self, asked: Sequence[Asked], pushes: Sequence[Push], refusing: Tensor) -> Floats:
        """float64 [pushes, prompts]: r = log P(R) - log(1 - P(R)) of the first token of the reply,
        R the tokens `refusing`."""
        out = np.zeros((len(pushes), len(asked)))
        for batch in self._batches(asked, pushes, 0):
            asks = ["gaps", refusing.tolist(), batch.question]
            found = self.kept.get(asks, partial(self._gaps, batch, refusing))
            for (push, prompt), value in zip(batch.at, found["r"], strict=True):
                out[push, prompt] = value
        return out

    def first(self, asked: Sequence[Asked]) -> Floats:
        """float64 [prompts, V]: the chances of the first token of a reply, left alone."""
        out: list[Floats] = [np.zeros(0)] * len(asked)
        for batch in self._batches(asked, [nothing()], 0):
            with torch.inference_mode():
                last = self._forward(batch.ids, use_cache=False).logits[:, -1]
            found = last.double().softmax(-1).cpu().numpy()
            for (_, prompt), chances in zip(batch.at, found, strict=True):
                out[prompt] = chances
        return np.stack(out)

    def replies(
        self, asked: Sequence[Asked], pushes: Sequence[Push], tokens: int
    ) -> list[list[Ids]]:
        """By push and prompt: at most so many tokens, without the one that ends a reply."""
        out: list[list[Ids]] = [[()] * len(asked) for _ in pushes]
        for batch in self._batches(asked, pushes, tokens):
            asks = ["replies", tokens, batch.question]
            said = self.kept.get(asks, partial(self._said, batch, tokens))
            for (push, prompt), ids in zip(batch.at, said["ids"].tolist(), strict=True):
                out[push][prompt] = tuple(each for each in ids if each != OVER)
        return out

    def _gaps(self, batch: Batch, refusing: Tensor) -> Answer:
        """`r`, float64 [b]."""
        with torch.inference_mode(), editing(self._model, self._bench.tap, Applied(batch.pushes)):
            last = self._forward(batch.ids, use_cache=False).logits[:, -1]
        return {"r": gap(last, refusing).cpu().numpy()}

    def _said(self, batch: Batch, tokens: int) -> Answer:
        """`ids`, int64 [b, at most `tokens`], OVER from the token on that ends a reply."""
        said: list[Tensor] = []
        given, past = batch.ids, None
        over = torch.zeros(len(given), dtype=torch.bool)
        with torch.inference_mode(), editing(self._model, self._bench.tap, Applied(batch.pushes)):
            for _ in range(tokens):
                made = self._forward(given, use_cache=True, past_key_values=past)
                past = made.past_key_values
                given = made.logits[:, -1].argmax(-1, keepdim=True).cpu()
                said.append(given)
                over |= torch.isin(given[:, 0], self._ends)
                if over.all():
                    break
        ids = torch.cat(said, 1)
        behind = torch.isin(ids, self._ends).cumsum(1) > 0
        return {"ids": ids.masked_fill(behind, OVER).numpy()}

    def _forward(self, ids: Tensor, **how: Any) -> Any:
        return self._model(input_ids=ids.to(input_device(self._model)), **how)

    def _batches(
        self, asked: Sequence[Asked], pushes: Sequence[Push], tokens: int
    ) -> Iterator[Batch]:
        for length, numbers in by_length(asked).items():
            pairs = [(push, prompt) for push in range(len(pushes)) for prompt in numbers]
            room = self._bench.batch_tokens * (WIDER if tokens else 1)
            rows = max(1, room // (length + tokens))
            for start in range(0, len(pairs), rows):
                some = pairs[start : start + rows]
                self._bench.leave(LAST_ANSWER)
                counts: dict[int, int] = {}
                for push, _ in some:
                    counts[push] = counts.get(push, 0) + 1
                ids = torch.tensor([asked[prompt].ids for _, prompt in some])
                yield Batch(ids, [(pushes[i], n) for i, n in counts.items()], some)


def gap(logits: Tensor, refusing: Tensor) -> Tensor:
    """log P(R) - log(1 - P(R)), float64 [b], of logits [b, V] and the ids R, without loss where
    either is next to nothing."""
    log_p = logits.double().log_softmax(-1)
    inside = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    inside[refusing.to(logits.device)] = True
    return log_p[:, inside].logsumexp(-1) - log_p[:, ~inside].logsumexp(-1)


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a reply."""
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = {end_of_text(tokenizer)}
    for each in (told, tokenizer.eos_token_id):
        found |= {each} if isinstance(each, int) else set(each or ())
    return found
