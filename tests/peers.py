"""The interpreter in which other projects' loaders are installed (`make peers`), and how to ask it.

`$SAECTL_PEERS` names it, else it is that of `.venv/peers` in this checkout. Where there is none, or
a project is not in it, a test that needs it is skipped and says so.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).parents[1]
LOADER = Path(__file__).with_name("peers_driver.py")
NAMES = {
    "sparsify": "sparsify",
    "dictionary_learning": "dictionary_learning",
    "circuit-tracer": "circuit_tracer",
}
"""A format, and the module that is asked whether its project is there."""


def interpreter() -> Path | None:
    """The peers' own Python, if there is one; one that is being made is none yet."""
    named = os.environ.get("SAECTL_PEERS")
    if named:
        return path if (path := Path(named).absolute()).is_file() else None
    made = ROOT / ".venv" / "peers"
    return made / "bin" / "python" if (made / ".ready").is_file() else None


@cache
def missing(format: str) -> str | None:
    """Why a project's loader can't be asked; None if it can."""
    python = interpreter()
    if python is None:
        return "no interpreter with the peers: make peers, or name one with SAECTL_PEERS"
    found = subprocess.run([python, "-c", f"import {NAMES[format]}"], capture_output=True)
    return None if found.returncode == 0 else f"{NAMES[format]} is not installed beside {python}"


def needs(format: str) -> None:
    """Skip the test unless this project's loader can be asked. `SAECTL_NEEDS_PEERS` forbids it."""
    why = missing(format)
    if why is not None:
        assert not os.environ.get("SAECTL_NEEDS_PEERS"), why
        pytest.skip(why)


class Peers:
    """Collects questions, and asks them in one process: a start costs seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked: list[dict[str, str]] = []

    def ask(self, format: str, folder: Path, x: Tensor) -> int:
        """What does the peer make of `x [n, d_in]` with what is in `folder`? (All layers of a set,
        on the same rows.) Returns the number of the answer."""
        at = len(self._asked)
        rows = self._folder / f"{at}.x.safetensors"
        save_file({"x": x.float().contiguous()}, rows)
        answer = str(self._folder / f"{at}.answer.safetensors")
        self._asked.append(
            {"format": format, "folder": str(folder), "rows": str(rows), "answer": answer}
        )
        return at

    def answers(self) -> list[dict[str, Tensor]]:
        """`f` and `out` of each question, in order: `[n, d_sae]`, `[n, d_out]`, with the number of
        the layer behind the names where it was a set."""
        python = interpreter()
        assert python is not None
        done = subprocess.run(
            [python, LOADER],
            input=json.dumps(self._asked),
            text=True,
            capture_output=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, done.stderr
        return [load_file(asked["answer"]) for asked in self._asked]
