"""Run by test_train_kills.py: forks processes that train a grid, and kills them where it is told.

Takes one order a line, JSON: [folder, specs, n]. Forks a process that trains all of `specs` (name
-> fields of the training) on the array in `folder`, and is killed (SIGKILL, by itself) at its n-th
moment; 0 lets it end. Moments are the beginnings of batches and steps, the tensors of checkpoints,
and their renaming. Answers with the exit code and the moments that were passed. Imports are paid
once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from training import Bench

from sae_cli.sae.trainer import Trainer
from sae_cli.stages import grid_state
from sae_cli.stages.grid_feed import Feed
from sae_cli.stages.train import run


def mortal(at: int, pipe: int) -> None:
    """From now on this process dies at its `at`-th moment."""
    passed = 0

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*given: Any) -> Any:
            nonlocal passed
            passed += 1
            os.pwrite(pipe, str(passed).encode(), 0)
            if passed == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given)

        return inner

    Feed.batch = before(Feed.batch)  # type: ignore[method-assign]
    Trainer.step = before(Trainer.step)  # type: ignore[method-assign]
    grid_state._append = before(grid_state._append)
    grid_state.sync_folder = before(grid_state.sync_folder)


def train(folder: Path, specs: dict[str, dict[str, Any]], at: int) -> tuple[int, int]:
    """Train in a forked process; its exit code, and the moments that it passed."""
    counter = folder / "moments"
    counter.write_bytes(b"0")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            mortal(at, os.open(counter, os.O_WRONLY))
            place = Bench(folder)
            run([place.task(name, **spec) for name, spec in specs.items()])
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(counter.read_text())


if __name__ == "__main__":
    for line in sys.stdin:
        folder, specs, at = json.loads(line)
        print(*train(Path(folder), specs, at), flush=True)
