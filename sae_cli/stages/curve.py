"""The training curve on disk: metrics.jsonl, one line a logged step, none twice.

A resumed run drops the lines behind its checkpoint, so that the file reads like that of one run.
It is a log and no result: the lines carry the time, and no digest covers them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from sae_cli.store.atomic import write_bytes

OWN = ("step", "tokens", "time", "seconds")
"""What a line says beside the numbers that are logged."""


class Curve:
    """Appends to `path`, after dropping what lies behind `step`. A context manager."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        self.before: list[tuple[int, dict[str, float]]] = []
        """Steps that earlier runs logged, with their numbers: those that `write` was given."""
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    found = json.loads(line)
                    if found["step"] <= step:
                        kept.append(line)
                        numbers = {k: v for k, v in found.items() if k not in OWN}
                        self.before.append((found["step"], numbers))
                except (ValueError, KeyError):
                    break  # the torn end of a killed run
        write_bytes(path, b"".join(kept))
        self._file = path.open("a", encoding="utf-8")
        self._began = time.monotonic()

    def write(self, step: int, tokens: int, numbers: Mapping[str, float]) -> None:
        """Add a line: step, tokens so far, time, seconds of this run, and `numbers`."""
        seconds = time.monotonic() - self._began
        line = {
            "step": step,
            "tokens": tokens,
            "time": round(time.time(), 3),
            "seconds": round(seconds, 3),
            **numbers,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __enter__(self) -> Curve:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
