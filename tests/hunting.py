"""Captures that are killed with SIGKILL while they capture, and the proof that they were at it.

A kill *lands* when the process dies of it and leaves a part that it had claimed and not finished:
its claim is still on disk under its pid, and some shard of the part has no commit. Kills that hit
anything else (Python's start, the loading of the model, the moment between two parts) don't count.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sae_cli.store.buckets.client import Bucket
from sae_cli.store.buckets.locate import data_files, data_url
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import PARTS, read_entries

PROGRAM = Path(__file__).parent / "e2e" / "killing.py"
_PATIENCE = 300.0
_bucket = cache(Bucket)


class Forks:
    """`saectl cache WORDS...` in forked processes, by way of killing.py. A context manager."""

    def __init__(self, words: list[str], env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as said:
            self._server = subprocess.Popen(
                [sys.executable, str(PROGRAM), *words],
                env=env,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )

    def begin(self) -> int:
        """Start one; its pid."""
        return self._order("begin")

    def kill(self, pid: int) -> int:
        """Send it SIGKILL; how it ended (-9, or its exit code if it was over before)."""
        return self._order(f"kill {pid}")

    def wait(self, pid: int) -> int:
        """How it ended."""
        return self._order(f"wait {pid}")

    def said(self) -> str:
        """The end of what all of them said."""
        return self._log.read_text(errors="replace")[-3000:]

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def _order(self, line: str) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        print(line, file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, f"no answer to {line!r}: {self.said()}"
        return int(answer)


@dataclass
class Hunt:
    """Keeps `writers` captures of one workspace going, and kills them.

    Aimed at the work itself: once some process holds a part, up to `spare` more shards may be
    committed, and a few milliseconds pass; then one that holds a part dies.
    """

    store: Path
    forks: Forks
    writers: int
    spare: int
    dice: random.Random
    landed: int = 0
    missed: int = 0
    """Kills that hit something else, or at random."""
    company: int = 0
    """Landed kills at which another process held a part as well."""
    half: int = 0
    """Landed kills that left files half written."""
    running: list[int] = field(default_factory=list)

    def kill(self, times: int) -> None:
        """Kill until `times` kills have landed."""
        while len(self.running) < self.writers:
            self.running.append(self.forks.begin())
        while self.landed < times:
            if self.dice.random() < 0.2:
                self._replace(self.dice.choice(self.running))
                self.missed += 1
            self._aim()
            self._strike()

    def finish(self) -> None:
        """Let the captures that run now end; all must succeed."""
        codes = [self.forks.wait(pid) for pid in self.running]
        assert not any(codes), f"nobody killed these, and they ended with {codes}"
        self.running = []

    def told(self) -> str:
        """The tally, in one line."""
        return (
            f"{self.landed} kills landed ({self.company} beside another writer at work, "
            f"{self.half} left files half written), {self.missed} others do not count"
        )

    def _aim(self) -> None:
        """Wait for a moment in somebody's capture."""
        self._until(lambda: bool(self._held(self.running)))
        due = committed(self.store) + self.dice.randint(0, self.spare)
        self._until(lambda: committed(self.store) >= due)
        time.sleep(self.dice.uniform(0, 0.02))

    def _strike(self) -> None:
        """Kill a process that holds a part, and see what it left."""
        holders = self._held(self.running)
        if not holders:
            return
        victim = self.dice.choice(sorted(holders))
        code = self._replace(victim)
        left = self._held([victim])
        at_work = code == -9 and any(unfinished(claim) for claim in left.get(victim, ()))
        self.landed += at_work
        self.missed += not at_work
        self.company += at_work and len(holders) > 1
        self.half += at_work and any(self.store.glob("cache/*/activations.zarr/*/.*.tmp"))

    def _replace(self, pid: int) -> int:
        """Kill one, and start another in its place; how it ended."""
        code = self.forks.kill(pid)
        assert code in (-9, 0), self.forks.said()
        self.running[self.running.index(pid)] = self.forks.begin()
        return code

    def _held(self, of: list[int]) -> dict[int, list[Path]]:
        """The claims on parts, by the process that holds them."""
        found: dict[int, list[Path]] = {}
        for path in self.store.glob("cache/*/claim.[0-9]*"):
            with suppress(FileNotFoundError, ValueError):  # released, or just being written
                pid = int(json.loads(path.read_bytes())["pid"])
                if pid in of:
                    found.setdefault(pid, []).append(path)
        return found

    def _until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not what():
            assert time.monotonic() < deadline, f"waited in vain: {self.forks.said()}"
            assert any(_alive(pid) for pid in self.running), (
                f"the capture is over after {self.told()}"
            )
            time.sleep(0.003)


def committed(store: Path) -> int:
    """How many shards of all arrays are committed."""
    found = 0
    for stage in store.glob("cache/*"):
        url = data_url(stage)
        if url is None:
            found += len(read_entries(LocalFiles(stage)))
        else:
            found += len(_bucket(url).tree(PARTS))  # one object for each
    return found


def unfinished(claim: Path) -> bool:
    """Whether some shard of the part that a claim names is not committed."""
    first, _, stop = claim.suffix[1:].partition("-")
    there = {entry["k"] for entry in read_entries(data_files(claim.parent))}
    return not there.issuperset(range(int(first), int(stop)))


def _alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor waiting to be asked how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
