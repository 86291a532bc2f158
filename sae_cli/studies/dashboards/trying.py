"""A model that somebody asks while looking at features: what fires in a text, and how it goes on
when one feature is held at a strength.

Steering is in raw units and keeps the SAE's error: where the feature j fires with f_j, the site's
activation x becomes x + (s - f_j) d_j, d_j its decoder row and s the strength asked for, on every
token of the text and of what follows but the first (the end-of-text token in front of it), which no
SAE was trained on. A transcoder's row is added to what it predicts. Both texts are greedy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from sae_cli.errors import DataError
from sae_cli.lm.device import input_device
from sae_cli.lm.encode import end_of_text
from sae_cli.lm.sites import find_tap
from sae_cli.lm.splice import editing
from sae_cli.spec.stages import ModelSpec
from sae_cli.studies.dashboards.texts import words_of
from sae_cli.studies.watch.live import Live, Reader

SHOWN = 30
"""Features told of a token, the strongest."""
MOST_TOKENS, MOST_NEW = 2048, 256


class Trials:
    """The SAEs that may be asked about, by name: a model is loaded once, an SAE when it is asked
    about. One question at a time: others wait."""

    def __init__(
        self, saes: Mapping[str, tuple[Path, Mapping[str, Any], ModelSpec, float | None]]
    ) -> None:
        """Each with its folder, its record, its model and its norm limit."""
        self._saes, self._lock = saes, Lock()
        self._readers: dict[str, Reader] = {}
        self._lives: dict[str, Live] = {}

    def answer(self, what: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `read` {sae, text} or `steer` {sae, text, feature, strength, tokens}.

        Raises DataError for what can't be answered.
        """
        with self._lock:
            live = self._live(asked.get("sae"))
            text = asked.get("text")
            if not isinstance(text, str):
                raise DataError("say a text")
            ids = live.reader.ids(text)
            if ids.shape[1] > MOST_TOKENS:
                raise DataError(f"{ids.shape[1]:,} tokens are too many: {MOST_TOKENS:,} at most")
            return read(live, ids) if what == "read" else self._steer(live, ids, asked)

    def load(self, name: str) -> None:
        """Have the SAE and its model in memory."""
        with self._lock:
            self._live(name)

    def _steer(self, live: Live, ids: Tensor, asked: Mapping[str, Any]) -> dict[str, Any]:
        feature, tokens = asked.get("feature"), asked.get("tokens", 32)
        strength: Any = asked.get("strength")
        if not isinstance(feature, int) or not 0 <= feature < live.sae.d_sae:
            raise DataError(f"say a feature from 0 to {live.sae.d_sae - 1}")
        number = isinstance(strength, int | float) and not isinstance(strength, bool)
        if not number or not math.isfinite(strength):
            raise DataError("say a strength, in raw activation units")
        if not isinstance(tokens, int) or not 1 <= tokens <= MOST_NEW:
            raise DataError(f"say how many new tokens, 1 to {MOST_NEW}")
        return steer(live, ids, feature, float(strength), tokens)

    def _live(self, name: Any) -> Live:
        if name not in self._saes:
            raise DataError(f"there is no SAE called {name}")
        if name not in self._lives:
            folder, own, spec, limit = self._saes[name]
            key = spec.model_dump_json()
            if key not in self._readers:
                self._readers[key] = Reader(spec)
            self._lives[name] = Live(self._readers[key], folder, own, limit)
        return self._lives[name]


def read(live: Live, ids: Tensor) -> dict[str, Any]:
    """The words of a text `ids` [1, T], whether each counts, and the features that fire there."""
    seen = live.read(ids)
    latents = seen.latents[1:]
    values, features = latents.topk(min(SHOWN, latents.shape[1]), dim=1)
    fired = [
        [[f, v] for f, v in zip(fs, vs, strict=True) if v > 0]
        for fs, vs in zip(features.tolist(), values.tolist(), strict=True)
    ]
    words = spelled(live, ids)[1:]
    return {"words": words, "counts": seen.keep[1:].tolist(), "fired": fired}


def steer(live: Live, ids: Tensor, feature: int, strength: float, tokens: int) -> dict[str, Any]:
    """How `ids` [1, T] goes on, with the feature held at `strength` and untouched, and where the
    feature fires in it."""
    seen = live.read(ids)
    plain = continued(live, ids, tokens)
    with ExitStack() as stack:
        held(live, feature, strength, stack)
        steered = continued(live, ids, tokens)
    return {
        "words": spelled(live, ids)[1:],
        "values": seen.latents[1:, feature].tolist(),
        "strength": strength,
        "plain": spelled(live, plain),
        "steered": spelled(live, steered),
    }


def spelled(live: Live, ids: Tensor) -> list[str]:
    """The words of `ids` [1, T]."""
    return words_of(live.reader.tokenizer, ids[0].tolist())


def held(live: Live, feature: int, strength: float, stack: ExitStack) -> None:
    """In `stack`, the model's forwards hold the feature at `strength`; the first of them is of a
    whole text, the others go on behind it."""
    model, own = live.reader.model, live.own
    row = live.sae.W_dec[feature]
    begun: list[bool] = []
    off: list[Tensor] = []

    def measure(x: Tensor) -> Tensor:
        """Keep how far the feature is off, [1, T]; zero at the first position of the text."""
        latent = live.sae.encode(x.to(row.device, torch.float32))[..., feature]
        away = strength - latent
        if not begun:
            away[:, 0] = 0.0
            begun.append(True)
        off[:] = [away]
        return x

    def move(x: Tensor) -> Tensor:
        return (x.to(row.device, torch.float32) + off[0][..., None] * row).to(x.dtype)

    if live.transcodes:
        stack.enter_context(editing(model, live.tap, measure))
        stack.enter_context(editing(model, find_tap(model, own["layer"], own["out_site"]), move))
    else:
        both: Callable[[Tensor], Tensor] = lambda x: move(measure(x))  # noqa: E731
        stack.enter_context(editing(model, live.tap, both))


def continued(live: Live, ids: Tensor, tokens: int) -> Tensor:
    """int64 [1, n]: what the model adds, greedily; up to `tokens`, fewer where it ends."""
    model = live.reader.model
    begin = ids.to(input_device(model))
    end = end_of_text(live.reader.tokenizer)
    with torch.no_grad():
        out: Tensor = model.generate(
            begin,
            attention_mask=torch.ones_like(begin),
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=end,
        )
    return out[:, ids.shape[1] :].cpu()
