"""A commit log in a bucket: line n is the object `<name>/<n>`, made only where there is none.

Objects can't be appended to and hold no locks. But two writers that both want to make line n are
told apart by the conditional PUT: one makes it, the other learns that it is not alone. Until then
both may have written the same shard, which does no harm: its bytes are a function of the plan.

A log ends before the first number that is missing or whose line is not good; a writer deletes
what lies behind. Dropping goes from the last line to the first, so a kill leaves a shorter log.

Logs are read again and again, by those who wait for others most of all. That costs one listing,
and a request for each line that this process has not read yet: a line is known by its name and
the version that the listing tells, and a known one does not change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from sae_cli.errors import StoreError
from sae_cli.store.buckets.client import Bucket
from sae_cli.store.tables.commits import Entry, encode, parse

_READERS = 16


class _Known:
    """Lines that were read, each under its url and version; the latest `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lines = limit, OrderedDict[tuple[str, str], Entry]()
        self._turn = Lock()

    def get(self, url: str, version: str | None) -> Entry | None:
        """The line, or None where it was not read (or has no version)."""
        if version is None:
            return None
        with self._turn:
            entry = self._lines.get((url, version))
            if entry is not None:
                self._lines.move_to_end((url, version))
        return entry

    def put(self, url: str, version: str | None, entry: Entry) -> None:
        """Remember a good line."""
        if version is not None:
            with self._turn:
                self._lines[url, version] = entry
                while len(self._lines) > self._limit:
                    self._lines.popitem(last=False)


_KNOWN = _Known(2**16)


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


def read_object_log(bucket: Bucket, name: str) -> list[Entry]:
    """The good lines of a log; none where there is no log."""
    return _read(bucket, name)[0]


def read_object_logs(bucket: Bucket, folder: str) -> dict[str, list[Entry]]:
    """The good lines of every log in `folder`, by the log's base name."""
    there = {f"{folder}/{at}": version for at, version in bucket.tree(folder).items() if "/" in at}
    logs: dict[str, list[tuple[str, Entry | None]]] = {}
    for name, entry in _lines(bucket, there).items():
        log, _, line = name.removeprefix(f"{folder}/").partition("/")
        logs.setdefault(log, []).append((line, entry))
    return {log: _good(lines) for log, lines in logs.items()}


def drop_objects(bucket: Bucket, name: str) -> None:
    """Delete a log, if it is there."""
    for line in reversed(bucket.names(name)):
        bucket.delete(f"{name}/{line}")


def _read(bucket: Bucket, name: str) -> tuple[list[Entry], list[str]]:
    """The good lines, and the base names of the objects behind them."""
    there = {f"{name}/{line}": version for line, version in bucket.tree(name).items()}
    lines = [(at.removeprefix(f"{name}/"), entry) for at, entry in _lines(bucket, there).items()]
    entries = _good(lines)
    return entries, [line for line, _ in lines[len(entries) :]]


def _lines(bucket: Bucket, there: Mapping[str, str | None]) -> dict[str, Entry | None]:
    """The lines that objects (name -> version) hold; None for one that is gone or holds no line."""
    lines = {name: _KNOWN.get(bucket.where(name), version) for name, version in there.items()}
    new = [name for name, entry in lines.items() if entry is None]
    if new:
        with ThreadPoolExecutor(_READERS) as readers:
            for name, data in zip(new, readers.map(bucket.get, new), strict=True):
                good = parse(data or b"")[0]
                if len(good) == 1:
                    lines[name] = good[0]
                    _KNOWN.put(bucket.where(name), there[name], good[0])
    return lines


def _good(lines: Iterable[tuple[str, Entry | None]]) -> list[Entry]:
    """The lines before the first that is missing or not good."""
    entries: list[Entry] = []
    for line, entry in lines:
        if line != _number(len(entries)) or entry is None:
            break
        entries.append(entry)
    return entries


def _number(n: int) -> str:
    return f"{n:08d}.json"
