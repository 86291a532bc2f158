"""A commit log in a bucket: line n is the object `<name>/<n>`, made only where there is none.

Objects can't be appended to and hold no locks. But two writers that both want to make line n are
told apart by the conditional PUT: one makes it, the other learns that it is not alone. Until then
both may have written the same shard, which does no harm: its bytes are a function of the plan.

A log ends before the first number that is missing or whose line is not good; a writer deletes
what lies behind. Dropping goes from the last line to the first, so a kill leaves a shorter log.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sae_cli.errors import StoreError
from sae_cli.store.bucket import Bucket
from sae_cli.store.commits import Entry, encode, parse

_READERS = 16


class ObjectLog:
    """The log, open for appending. `entries` are the good lines so far, in order.

    Another writer is noticed when a line is appended, not before.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self._name = bucket, name
        self.entries, behind = _read(bucket, name)
        for line in reversed(behind):
            bucket.delete(f"{name}/{line}")

    def append(self, entry: Mapping[str, Any]) -> None:
        """Commit: when this returns, the line is in the bucket.

        Raises StoreError when it can't be, or when another process made a line since.
        """
        line = encode(entry)
        if not self._bucket.create(f"{self._name}/{_number(len(self.entries))}", line):
            raise StoreError(
                f"another process is writing {self._bucket.where(self._name)}",
                hint="wait for it, or end it; its committed shards are kept",
            )
        self.entries += parse(line)[0]

    def close(self) -> None:
        """Nothing is held."""


def read_objects(bucket: Bucket, name: str) -> list[Entry]:
    """The good lines of a log; none where there is no log."""
    return _read(bucket, name)[0]


def drop_objects(bucket: Bucket, name: str) -> None:
    """Delete a log, if it is there."""
    for line in reversed(bucket.names(name)):
        bucket.delete(f"{name}/{line}")


def _read(bucket: Bucket, name: str) -> tuple[list[Entry], list[str]]:
    """The good lines, and the base names of the objects behind them."""
    there = bucket.names(name)
    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(lambda line: bucket.get(f"{name}/{line}"), there))
    entries: list[Entry] = []
    for n, (line, data) in enumerate(zip(there, found, strict=True)):
        good = parse(data or b"")[0]
        if line != _number(n) or len(good) != 1:
            return entries, there[n:]
        entries += good
    return entries, []


def _number(n: int) -> str:
    return f"{n:08d}.json"
