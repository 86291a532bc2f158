"""What an SAE makes of one text, token by token, and what it does to the next token.

Every token is told of, also those that do not count, with the reason. It refuses a text that is
longer than the model can read: a part of it would be another text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sae_cli.errors import DataError, UsageError
from sae_cli.lm import masks
from sae_cli.lm.restart import Forwards
from sae_cli.spec.problems import closest
from sae_cli.studies.watch.contributions import Contributions, contributions
from sae_cli.studies.watch.live import Live

REASONS = {masks.SPECIAL: "special", masks.FIRST: "first", masks.OUTLIER: "outlier"}
"""Why a token does not count."""


@dataclass(frozen=True)
class SeenToken:
    """A token, and its features."""

    position: int
    """In the text, from 0; -1 is the token in front of it."""
    id: int
    text: str
    why_not: tuple[str, ...]
    """Why it does not count; empty where it does."""
    active: int
    """How many features are active."""
    features: tuple[tuple[int, float], ...]
    """The strongest, with their values in raw activation units, the strongest first."""


@dataclass(frozen=True)
class NextToken:
    """What the model may say next."""

    id: int
    text: str
    probability: float
    logit: float


@dataclass(frozen=True)
class Watched:
    """A text, and what was seen in it."""

    tokens: tuple[SeenToken, ...]
    position: int
    """Whose next token is looked at."""
    next: tuple[NextToken, ...]
    """The most likely ones."""
    target: NextToken
    """The one that contributions are to."""
    contributions: Contributions | None
    why_none: str | None
    """Why there are no contributions."""


def watch(
    live: Live, text: str, *, top: int, position: int = -1, word: str | None = None
) -> Watched:
    """The `top` features of each token of `text`, `top` next tokens at `position` (from 0; from the
    end below 0), and the features' contributions to `word`, else to the most likely one.

    Raises DataError for a text that is empty or too long, UsageError for a position that it does
    not have and a word that is not one token.
    """
    reader = live.reader
    tokens = reader.tokens(text)
    if reader.context is not None and len(tokens) + 1 > reader.context:
        raise DataError(
            f"the text has {len(tokens):,} tokens, and the model reads {reader.context - 1:,} "
            "behind the one that ends a document",
            hint="give a shorter text; saectl monitor reads long ones in windows",
        )
    if not -len(tokens) <= position < len(tokens):
        raise UsageError(
            f"--position {position}: the text has {len(tokens)} tokens, 0 to {len(tokens) - 1}"
            " (or -1 for the last, -2 for the one before)"
        )
    at = position % len(tokens)
    goal = None if word is None else one_token(live, word)
    ids = reader.behind_the_end(tokens)
    forwards = Forwards(reader.model)
    logits = forwards.clean(ids, [], []).logits[0, at + 1]
    likely = logits.double().softmax(0)
    reading = live.read(ids)
    words = reader.words(ids)
    vocabulary = len(logits)

    def said(token: int) -> NextToken:
        name = reader.words(torch.tensor([[token]]))[0]
        return NextToken(token, name, float(likely[token]), float(logits[token]))

    best = logits.topk(min(top, vocabulary)).indices.tolist()
    target = said(best[0] if goal is None else goal)
    found, why_none = None, None
    if not bool(reading.keep[at + 1]):
        why_none = f"the token does not count ({', '.join(why_not(reading.reasons[at + 1]))})"
    else:
        found = contributions(live, forwards, reading, at + 1, target.id)
        if not found.active:
            why_none = "no feature is active at this token"
    seen = [
        _seen(i - 1, int(ids[0, i]), words[i], reading.reasons[i], reading.latents[i], top)
        for i in range(len(words))
    ]
    return Watched(tuple(seen), at, tuple(map(said, best)), target, found, why_none)


def why_not(reasons: np.uint8) -> tuple[str, ...]:
    """The reasons in words."""
    return tuple(name for bit, name in REASONS.items() if reasons & np.uint8(bit))


def one_token(live: Live, word: str) -> int:
    """The id of a word of the vocabulary, as it is written in a text. Raises UsageError where the
    tokenizer makes several of it."""
    tokenizer = live.reader.tokenizer
    found = live.reader.tokens(word)
    known: Sequence[str] = list(tokenizer.get_vocab())
    if len(found) == 1 and found[0] != tokenizer.unk_token_id:
        return found[0]
    if word in known:
        return int(tokenizer.convert_tokens_to_ids(word))
    if len(found) == 1:
        guess = closest(word, known)
        raise UsageError(
            f"--token {word!r} is no word of the model's vocabulary"
            + (f"  did you mean '{guess}'?" if guess else "")
        )
    parts = ", ".join(repr(each) for each in live.reader.words(torch.tensor([found])))
    raise UsageError(
        f"--token {word!r} is {len(found)} tokens ({parts}): name one",
        hint="a space before a word may make it one token: --token ' word'",
    )


def _seen(
    position: int, token: int, text: str, reasons: np.uint8, latents: torch.Tensor, top: int
) -> SeenToken:
    active = int((latents != 0).sum())
    values, features = latents.topk(min(top, len(latents)))
    some = tuple(
        (f, v) for f, v in zip(features.tolist(), values.double().tolist(), strict=True) if v > 0
    )
    return SeenToken(position, token, text, why_not(reasons), active, some)
