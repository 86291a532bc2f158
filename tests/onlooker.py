"""A reader beside writers that die: whatever it is shown at any moment is what it will be."""

from __future__ import annotations

import hashlib
import random
import threading
from pathlib import Path

from sae_cli.store.acts.array import ActivationReader, declared
from sae_cli.store.buckets.locate import data_files

_AGAIN = 16
"""Shards of each array that are hashed again in each round, beside the new ones."""


def digest(reader: ActivationReader, k: int) -> str:
    """Of chunk `k` as a reader sees it: rows and mask."""
    columns = {**reader.raw(k), "mask": reader.reasons(k)}
    return hashlib.sha256(b"".join(columns[n].tobytes() for n in sorted(columns))).hexdigest()


def digests(stage: Path) -> list[str]:
    """Of every chunk of a complete array, in order: none lost, none doubled."""
    reader = ActivationReader(stage)
    assert reader.complete
    return [digest(reader, k) for k in range(reader.n_chunks)]


class Onlooker:
    """Hashes what is committed below `store`, round after round, in a thread of its own.

    A shard that appears is compared with its commit and with the chunks that it should hold
    (`due`: their digests, by stage); some older ones are compared again, and none may go. Leaving
    its `with` raises what it found.
    """

    def __init__(self, store: Path, due: dict[str, list[str]]) -> None:
        self.hashed = 0
        """Shards, each as often as it was looked at."""
        self.seen: dict[str, set[int]] = {name: set() for name in due}
        self._store, self._due = store, due
        self._dice = random.Random(26)
        self._over = threading.Event()
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._trouble is not None:
            raise self._trouble

    def _run(self) -> None:
        try:
            while not self._over.wait(0.02):
                for stage in self._store.glob("cache/*"):
                    if declared(data_files(stage)) is not None:
                        self._look(stage)
        except BaseException as error:  # noqa: BLE001  it is raised where the test waits
            self._trouble = error

    def _look(self, stage: Path) -> None:
        reader, seen = ActivationReader(stage), self.seen[stage.name]
        there = set(reader.table.commits)
        assert there >= seen, f"{stage.name}: shards {sorted(seen - there)} are committed no more"
        again = self._dice.sample(sorted(seen), min(_AGAIN, len(seen)))
        for s in [*sorted(there - seen), *again]:
            damages = list(reader.table.damages(s))
            assert not damages, damages
            for k in reader.table.table.chunks_in(s):
                assert digest(reader, k) == self._due[stage.name][k], (stage.name, s, k)
            self.hashed += 1
            if self._over.is_set():
                return
        self.seen[stage.name] = there
