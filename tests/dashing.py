"""A made-up dashboard, as large as one likes, for tests of what is written from one."""

from __future__ import annotations

from typing import Any

import numpy as np

from sae_cli.store.dashboards import Corpus, Dashboard, Examples, Ranked
from sae_cli.studies.dashboards.collect import EDGES

WORDS = ["<script>alert(1)</script>", "</script><b>bold</b>", "&amp;", "\n", " plain", " ünïcödé",
         "\u2028", "\ud800", "", '"quoted"'] + [f" word{i}" for i in range(190)]  # fmt: skip
"""What tokens say. Some would harm a page that took them for markup, one is half a character."""
HOSTILE = '<img src=x onerror="document.title=1"> </script><script>document.title=2</script>'


def words(ids: Any) -> list[str]:
    """The words of tokens."""
    return [WORDS[i] for i in ids]


def corpus(blocks: int = 40, context: int = 20, window: int = 8, seed: int = 0) -> Corpus:
    """Blocks whose last window is shorter."""
    dice = np.random.default_rng(seed)
    tokens = dice.integers(0, len(WORDS), (blocks, context)).astype(np.int32)
    return Corpus(tokens, window, "made up")


def dashboard(
    features: int, text: Corpus, *, name: str = "made.up-00000000", top: int = 4, seed: int = 0
) -> Dashboard:
    """Feature 0 never fires; feature 7 is explained, labelled and steered."""
    dice = np.random.default_rng(seed)
    lengths = np.array([len(text.ids(n)) for n in range(text.per_block)])

    def examples(k: int) -> Examples:
        number = dice.integers(0, text.n_windows, (features, k))
        shape = (features, k, text.window)
        values = dice.gamma(2.0, 1.0, shape).astype(np.float32)
        values *= dice.random(shape) < 3 / text.window
        values[..., 0] += 0.5
        values *= np.arange(text.window) < lengths[number % text.per_block][..., None]
        order = np.argsort(-values.max(2), axis=1, kind="stable")
        number = np.take_along_axis(number, order, 1)
        values = np.take_along_axis(values, order[..., None], 1)
        number[0], values[0] = -1, 0
        return Examples(number, values)

    def ranked(below: int, n: int) -> Ranked:
        values = -np.sort(-dice.random((features, n)).astype(np.float32), axis=1)
        return Ranked(dice.integers(0, below, (features, n)).astype(np.int32), values)

    best, sample = examples(top), examples(6)
    fired = dice.integers(1, 5000, features)
    histogram = np.zeros((features, len(EDGES) - 1), np.int32)
    histogram[:, 60:70] = dice.integers(0, 50, (features, 10))
    fired[0], histogram[0] = 0, 0
    groups = np.tile(np.arange(6) // 2, (features, 1)).astype(np.int8)
    groups[0] = -1
    notes = {
        7: {
            "explanations": [
                {"text": HOSTILE, "by": "a judge", "detection": 0.75, "fuzzing": None}
            ],
            "labels": [{"label": "topic=river", "f1": 0.875, "threshold": 0.5}],
            "steering": [{"refusal rate": 0.9, "strength": 4}],
        }
    }  # fmt: skip
    return Dashboard(
        name=name,
        facts={"model": "tiny", "layer": 2, "site": "resid_post", "architecture": "topk",
               "width": features},
        tokens=20_000,
        fired=fired,
        total=fired * 1.5,
        largest=best.peak.max(1),
        windows=fired // 2,
        histogram=histogram,
        edges=EDGES,
        top=best,
        sample=sample,
        groups=groups,
        idle=dice.integers(0, text.n_windows, (features, 2)),
        up=ranked(len(WORDS), 5),
        down=ranked(len(WORDS), 5),
        near=ranked(features, 4),
        notes=notes if features > 7 else {},
    )  # fmt: skip
