"""Run by test_crashes.py: writers that die of SIGKILL, and others that go on after them.

    crash_driver.py OUT named        every point of the protocol, each met for the 1st, 2nd and
                                     last time; and the points of finishing
    crash_driver.py OUT random SEED  one writer killed at random, again and again, until it ends
    crash_driver.py OUT spread SEED  three writers of one array at once, killed at random
    crash_driver.py OUT blocks SEED  a writer of token blocks killed at random

Each writer is a forked process of its own that claims what it writes, as stages do. Prints how
many were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from arrays import SHARDS, record

from sae_cli.errors import Blocked
from sae_cli.store.acts import array as activations
from sae_cli.store.blocks import BlockWriter
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import claim
from sae_cli.store.tables.files import LocalFiles

COLUMNS = ("acts", "scales", "mask", "statistics")
TIMES = {
    **{f"writing {name}": (1, 5, 12) for name in COLUMNS[:2]},
    **{f"writing {name}": (1, 2, SHARDS) for name in COLUMNS[2:]},
    **{f"written {name}": (1, 2, SHARDS) for name in COLUMNS},
    **{f"renamed {name}": (1, 2, SHARDS) for name in COLUMNS},
    **dict.fromkeys(("before the log", "torn log line", "committed"), (1, 2, SHARDS)),
}
FINISHING = {"put": (1, 2), "drop_log": (1, 2), "tidy": (1,)}
"""Acts of `finish`, and before which of them it dies: the joined log and the group are put, the
parts' logs are dropped one by one, and last of all what is half written is tidied away."""
PARTS = [range(2), range(2, 3), range(3, SHARDS)]
SPLITS = {"train": 10, "heldout": 5}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write(
    folder: Path, part: range | None = None, at: str = "", nth: int = 0, pause: float = 0.0
) -> None:
    """Write a part; die at point `at` when it comes for the nth time."""
    seen = 0

    def point(name: str) -> None:
        nonlocal seen
        time.sleep(pause)
        if name == ("before the log" if at == "torn log line" else at):
            seen += 1
            if seen == nth:
                if at == "torn log line":
                    with next((folder / "commits").iterdir()).open("ab") as log:
                        log.write(b'{"files":{"activations.zarr/acts/c.2.0":"5')
                die()

    name = None if part is None else f"{part.start:06d}-{part.stop:06d}"
    with suppress(Blocked), claim(StageDir(folder), name):
        record(folder, "int8", part=part, threads=2, on_point=point)


def end(folder: Path, at: str = "", nth: int = 0) -> None:
    """Finish; die before act `at` when it comes for the nth time."""
    seen = 0

    class Mortal(LocalFiles):
        def act(self, name: str, do: Callable[..., None], *args: object) -> None:
            nonlocal seen
            seen += name == at
            if name == at and seen == nth:
                die()
            do(*args)

        def put(self, *args: object) -> None:
            self.act("put", super().put, *args)

        def drop_log(self, *args: object) -> None:
            self.act("drop_log", super().drop_log, *args)

        def tidy(self, *args: object) -> None:
            self.act("tidy", super().tidy, *args)

    activations.data_files = Mortal
    with claim(StageDir(folder)):
        activations.finish(folder)


def blocks(folder: Path, pause: float = 0.0) -> None:
    with BlockWriter(folder, 4, SPLITS, 3, lambda _: time.sleep(pause)) as writer:
        while not (writer.complete("train") and writer.complete("heldout")):
            step = (writer.last_state() or {"step": 0})["step"]
            split = "train" if writer.complete("heldout") or step % 2 else "heldout"
            n = writer.rows_in(split, writer.next_chunk(split))
            tokens = np.random.default_rng(step).integers(0, 99, (n, 4)).astype(np.int32)
            masks = (tokens % 7 == 0).astype(np.uint8)
            writer.write(split, tokens, tokens.astype(np.int64), tokens, masks, {"step": step + 1})
        writer.finish()


def start(do: Callable[..., None], *args: object) -> int:
    """Begin it in a forked process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do(*args)
            code = 0
        except BaseException:  # noqa: BLE001  the child's own end
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def killed(child: int) -> bool:
    """Whether a process died of SIGKILL. It must not fail."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"a writer failed with {code}"
    return code != 0


def run(do: Callable[..., None], *args: object) -> bool:
    return killed(start(do, *args))


def named(out: Path) -> int:
    deaths = 0
    for point, times in TIMES.items():
        for nth in times:
            folder = out / f"{point} {nth}".replace(" ", "-")
            assert run(write, folder, None, point, nth), folder.name
            assert not run(write, folder) and not run(end, folder)
            deaths += 1
    for act, times in FINISHING.items():
        for nth in times:
            folder = out / f"{act}-{nth}"
            for part in PARTS:
                assert not run(write, folder, part)
            assert run(end, folder, act, nth), folder.name
            assert not run(end, folder)
            deaths += 1
    return deaths


def at_random(dice: random.Random, out: Path, do: Callable[..., None], *args: object) -> int:
    deaths = 0
    while True:
        child = start(do, out, *args)
        time.sleep(dice.uniform(0.0, 0.05 * (deaths + 2)))
        os.kill(child, signal.SIGKILL)
        if not killed(child):
            return deaths
        deaths += 1


def spread(dice: random.Random, out: Path) -> int:
    """Three writers; every now and then one of them dies and another takes its place."""
    deaths, running = 0, {}
    left = list(PARTS)
    while left:
        for part in left:
            if part not in running:
                running[part] = start(write, out, part, "", 0, 0.01)
        time.sleep(dice.uniform(0.0, 0.03 * (deaths // 4 + 2)))
        victim = dice.choice(left)
        os.kill(running[victim], signal.SIGKILL)
        if killed(running.pop(victim)):
            deaths += 1
        else:
            left.remove(victim)
    return deaths


def main(out: Path, mode: str, seed: int = 0) -> None:
    torch.set_num_threads(1)
    dice = random.Random(seed)
    if mode == "blocks":
        assert not run(blocks, out / "whole")
        print(at_random(dice, out / "killed", blocks, 0.002))
        return
    if mode == "named":
        assert not run(write, out / "whole") and not run(end, out / "whole")
        print(named(out))
        return
    folder = out / mode
    if mode == "random":
        deaths = at_random(dice, folder, write, None, "", 0, 0.005)
    else:
        deaths = spread(dice, folder)
    deaths += at_random(dice, folder, end)
    print(deaths)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
