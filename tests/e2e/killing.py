"""Run by test_capture_kills.py: `saectl cache` in forked processes that are killed, over and over.

    killing.py KILLS WRITERS SEED WORDS...

Keeps WRITERS processes at `saectl cache WORDS...` and kills one of them (SIGKILL) at a random
moment, KILLS times; then lets one finish, and says how many kills hit a process that held a claim.
Imports are done once, before the forks, so that a kill costs the capture and not Python's start.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch  # noqa: F401
import transformers  # noqa: F401

import sae_cli.stages.cache
import sae_cli.stages.tokens  # noqa: F401
from sae_cli.cli.app import main


def begin(words: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    sys.argv = ["saectl", "cache", *words]
    code = 1
    with contextlib.suppress(BaseException):
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    os._exit(code)


def holds(pid: int, store: Path) -> bool:
    """Whether a process holds a claim on activations."""
    for claim in store.glob("cache/*/claim*"):
        with contextlib.suppress(OSError):
            if f'"pid": {pid},' in claim.read_text():
                return True
    return False


def hunt(kills: int, writers: int, seed: int, words: list[str]) -> int:
    dice, store = random.Random(seed), Path(os.environ["SAECTL_STORE"])
    running = [begin(words) for _ in range(writers)]
    landed = 0
    for _ in range(kills):
        victim = dice.randrange(writers)
        time.sleep(dice.uniform(0.2, 2.0) / writers)
        landed += holds(running[victim], store)
        os.kill(running[victim], signal.SIGKILL)
        os.waitpid(running[victim], 0)
        running[victim] = begin(words)
    failed = [pid for pid in running if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    assert not failed, "a process that nobody killed failed"
    return landed


if __name__ == "__main__":
    count, beside, seed, *rest = sys.argv[1:]
    print(hunt(int(count), int(beside), int(seed), rest))
