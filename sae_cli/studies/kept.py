"""Answers that were had of a model, kept until the study is done: one that was killed asks the same
again, in the same order, and goes on behind the last.

Each answer is a file. It begins with a checksum that rolls over all questions and answers before
it, so what another question, another answer or another saectl lies behind is asked anew, and so is
a file that a power cut tore.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3
from numpy.typing import NDArray
from safetensors.numpy import load, save

from sae_cli import __version__
from sae_cli.sae.base import SAE
from sae_cli.store.atomic import write_bytes

LAST_ANSWER = "the model's last answer"
"""Where a study that is told to stop is saved (`Bench.leave`)."""
Answer = dict[str, NDArray[Any]]


class Kept:
    """The answers of one chapter of a study, each a file in `folder`."""

    def __init__(self, folder: Path, name: str = "model", rolled: blake3 | None = None) -> None:
        self._folder, self._name, self._next = folder, name, 0
        self._rolled = blake3(__version__.encode()) if rolled is None else rolled

    def chapter(self, name: str, sae: SAE) -> Kept:
        """What is asked about one SAE; it hangs on what was answered here so far."""
        rolled = self._rolled.copy()
        for tensor in sae.tensors().values():
            rolled.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return Kept(self._folder, name, rolled)

    def get(self, question: Any, ask: Callable[[], Answer]) -> Answer:
        """What `ask()` returns, or returned before to this `question` (plain JSON)."""
        path = self._folder / f"{self._name}.{self._next}"
        self._next += 1
        self._rolled.update(json.dumps(question).encode())
        there = path.read_bytes() if path.is_file() else b""
        size = self._rolled.digest_size
        sum_, data = there[:size], there[size:]
        if sum_ != self._after(data).digest():
            data = save(ask())
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, self._after(data).digest() + data, durable=False)
        self._rolled = self._after(data)
        found: Answer = load(data)
        return found

    def _after(self, answer: bytes) -> blake3:
        rolled = self._rolled.copy()
        rolled.update(answer)
        return rolled
