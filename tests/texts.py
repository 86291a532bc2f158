"""Small corpora that tests of packing read, and what is packed of them, put back together."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae_cli.lm.pack import Group

EOS = 1


def corpus(path: Path, seed: int, documents: int = 400, longest: int = 40) -> list[str]:
    """Random documents of w-words; the word w{seed} starts each, to tell sources apart."""
    dice = random.Random(seed)
    texts = [
        " ".join([f"w{seed}"] + [f"w{dice.randrange(100, 500)}" for _ in range(length)])
        for length in (dice.randrange(longest) for _ in range(documents))
    ]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return texts


def streams(groups: Sequence[Group], part: str) -> tuple[Any, ...]:
    """All tokens, document numbers and positions of one part, in order."""
    of_part = [g for g in groups if g.part == part]
    return tuple(
        np.concatenate([getattr(g, field).ravel() for g in of_part])
        for field in ("tokens", "document", "position")
    )


def ids(words: Any, text: str) -> list[int]:
    """The tokens of a text, and the one that ends it."""
    return [*words(text, add_special_tokens=False)["input_ids"], EOS]


def same(a: Group, b: Group) -> bool:
    """Whether two groups of blocks, and the states behind them, are equal."""
    fields = ("tokens", "document", "position", "reasons")
    return (a.part, a.first, a.state) == (b.part, b.first, b.state) and all(
        np.array_equal(getattr(a, f), getattr(b, f)) for f in fields
    )
