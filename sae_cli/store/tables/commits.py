"""The append-only log by which data exists: one checksummed JSON line per committed chunk.

A chunk's files may lie on disk whole and renamed; until their line is in this log and synced they
are nothing. Each line ends with a checksum of its own, so that a line torn by a crash is known
for one. A writer holds an exclusive lock (released by its death), cuts the log at the first line
that is not good, and goes on from there; a reader stops at that line.

The log holds no times and no hosts: a run that was killed and resumed leaves the same bytes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sae_cli.errors import StoreError
from sae_cli.store.atomic import append_all, explained, lock_now, sync_folder
from sae_cli.store.key import canonical

Entry = dict[str, Any]
_SUFFIX = len(',"crc":"01234567"}')


class Log(Protocol):
    """A commit log open for appending by this process alone."""

    entries: list[Entry]
    """The good lines so far, in order."""

    def append(self, entry: Mapping[str, Any]) -> None:
        """Commit: when this returns, the line is durable. Raises StoreError when it can't be."""

    def close(self) -> None:
        """Let another writer in. Closing twice is harmless."""


class CommitLog:
    """The log, open for appending by this process alone. A context manager; closing unlocks.

    `entries` are the good lines so far, in order. Raises StoreError when another process is
    writing, or the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        with explained(path, "open"):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            with explained(path, "lock"):
                if not lock_now(handle):
                    raise StoreError(
                        f"another process is writing {path.parent} (it holds {path.name})",
                        hint="wait for it, or end it; its committed chunks are kept",
                    )
                self.entries, good = parse(path.read_bytes())
                os.ftruncate(handle, good)
                os.fsync(handle)
                sync_folder(path.parent)
        except StoreError:
            os.close(handle)
            raise
        self._handle = handle

    def append(self, entry: Mapping[str, Any]) -> None:
        """Commit: when this returns, the line is on disk. Raises StoreError when it can't be."""
        assert self._handle is not None, "the log is closed"
        line = encode(entry)
        with explained(self.path, "append to"):
            append_all(self._handle, line)
        self.entries += parse(line)[0]

    def close(self) -> None:
        """Release the lock. Closing twice is harmless."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> CommitLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_commits(path: Path) -> list[Entry]:
    """The good lines of a log, without their checksums; none where there is no log yet."""
    try:
        with explained(path, "read"):
            return parse(path.read_bytes())[0]
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise


def encode(entry: Mapping[str, Any]) -> bytes:
    """A line of a log: the entry's canonical JSON, with a checksum of its own."""
    assert entry and "crc" not in entry
    body = canonical(dict(entry)).encode("ascii")
    return body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)


def parse(data: bytes) -> tuple[list[Entry], int]:
    """The entries before the first bad line, and the offset at which that line begins."""
    entries: list[Entry] = []
    good = 0
    for line in data.splitlines(keepends=True):
        body, suffix = line[: -_SUFFIX - 1] + b"}", line[-_SUFFIX - 1 :]
        if suffix != b',"crc":"%08x"}\n' % zlib.crc32(body):
            break
        entries.append(json.loads(body))
        good += len(line)
    return entries, good
