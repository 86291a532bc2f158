"""Run by test_crashes.py: writers that are killed, and then finished by another process.

    crash_driver.py OUT named        every point in the protocol, in chunk 2, once each
    crash_driver.py OUT random SEED  SIGKILL at a random moment, again and again, until it ends

Each writer is a forked process of its own; the one that dies, dies of SIGKILL.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import zarr  # noqa: F401  once here, not in every fork

from sae_cli.store.activations import ActivationWriter
from sae_cli.store.blocks import BlockWriter

ROWS, D, CHUNK = 90, 6, 16  # six chunks, the last one short
POINTS = [
    "writing acts", "written acts", "writing mask", "written mask", "renamed acts",
    "renamed mask", "before the log", "torn log line", "committed", "before finish",
]  # fmt: skip
SPLITS = {"train": 10, "heldout": 5}


def rows(k: int, n: int) -> tuple[torch.Tensor, np.ndarray]:
    """What chunk `k` holds: a pure function of k."""
    acts = torch.randn(n, D, generator=torch.Generator().manual_seed(k)).to(torch.bfloat16)
    reasons = (np.arange(n) % 5 == 0).astype(np.uint8) * 3
    return acts, reasons


def write_activations(folder: Path, die_at: str | None = None, pause: float = 0.0) -> None:
    def point(name: str) -> None:
        time.sleep(pause)
        due = writer.next_chunk == (3 if name == "committed" else 2)
        if due and die_at == "torn log line" and name == "before the log":
            with open(folder / "commits.jsonl", "ab") as log:
                log.write(b'{"files":{"acts.zarr/c.2.0":"5')
            os.kill(os.getpid(), signal.SIGKILL)
        if due and name == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with ActivationWriter(folder, ROWS, D, CHUNK, "bfloat16", {"site": "x"}, point) as writer:
        seen = writer.last_state
        assert (seen["next"] if seen else 0) == writer.next_chunk
        while writer.next_chunk < writer.n_chunks:
            k = writer.next_chunk
            writer.write(k, *rows(k, writer.rows_in(k)), {"next": k + 1})
        if die_at == "before finish":
            os.kill(os.getpid(), signal.SIGKILL)
        writer.finish()


def write_blocks(folder: Path, pause: float = 0.0) -> None:
    with BlockWriter(folder, 4, SPLITS, 3, lambda _: time.sleep(pause)) as writer:
        while not (writer.complete("train") and writer.complete("heldout")):
            step = (writer.last_state() or {"step": 0})["step"]
            split = "train" if writer.complete("heldout") or step % 2 else "heldout"
            n = writer.rows_in(split, writer.next_chunk(split))
            tokens = np.random.default_rng(step).integers(0, 99, (n, 4)).astype(np.int32)
            masks = (tokens % 7 == 0).astype(np.uint8)
            writer.write(split, tokens, tokens.astype(np.int64), tokens, masks, {"step": step + 1})
        writer.finish()


def killed(write, *args, after: float | None = None) -> bool:
    """Run `write` in a forked process; whether it died of SIGKILL. It must not fail."""
    child = os.fork()
    if child == 0:
        write(*args)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"a writer failed with {code}"
    return code != 0


def main(out: Path, mode: str, seed: int = 0) -> None:
    torch.set_num_threads(1)
    assert not killed(write_activations, out / "acts" / "whole")
    if mode == "named":
        for name in POINTS:
            folder = out / "acts" / name.replace(" ", "-")
            assert killed(write_activations, folder, name), name
            assert not killed(write_activations, folder), name
        return
    assert not killed(write_blocks, out / "blocks" / "whole")
    dice = random.Random(seed)
    for n in range(2):
        for kind, write, extra in (
            ("acts", write_activations, (None, 0.001)),
            ("blocks", write_blocks, (0.001,)),
        ):
            deaths = 0
            folder = out / kind / f"random-{n}"
            while killed(write, folder, *extra, after=dice.uniform(0.0, 0.04 * (deaths + 2))):
                deaths += 1
            print(kind, n, "died", deaths, "times")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
