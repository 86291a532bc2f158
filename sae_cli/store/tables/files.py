"""Where the files of a table lie, and the few acts that the commit protocol needs of such a place.

A file appears under its name whole or not at all, and is durable when it does. A folder does that
with a temporary file, a sync and a rename; a bucket (`buckets.files`) with a PUT. Whether a file
*counts* is not decided here: the commit log says so (`commits`, `chunks`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sae_cli.errors import StoreError
from sae_cli.store.atomic import (
    PIECE,
    Buffer,
    begin_sync,
    explained,
    lock_now,
    sync_folder,
    write_all,
    write_bytes,
)
from sae_cli.store.tables.commits import CommitLog, Entry, Log, read_commits

Bytes = NDArray[np.uint8]
LOG = ".jsonl"
AHEAD = 2**23
"""Bytes of a file that wait, at most, before the disk begins with them; the sync waits for less."""


class Upload(Protocol):
    """A file on its way: nothing is seen of it until `finish`."""

    def write(self, data: Buffer) -> None:
        """Add bytes at the end."""

    def finish(self) -> None:
        """Make the file durable and visible under its name, over an older one."""

    def abort(self) -> None:
        """Forget what was written. After `finish`, or twice, it does nothing."""


class Files(Protocol):
    """A place for files. Names are relative, with `/`; every failure is a StoreError."""

    def where(self, name: str = "") -> str:
        """The place, or a file in it, as a person would name it."""

    def create(self, name: str) -> Upload:
        """Begin a file."""

    def put(self, name: str, data: Buffer) -> None:
        """Write a small file whole."""

    def get(self, name: str) -> bytes | None:
        """A small file's bytes, or None where there is no such file."""

    def map(self, name: str, offset: int, size: int) -> Bytes:
        """`size` bytes from `offset`; the caller may change them, the file stays as it is.

        Raises StoreError when the file is missing or ends before.
        """

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none."""

    def names(self, folder: str) -> list[str]:
        """Base names of the files directly in `folder`, sorted; none where there is no folder."""

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""

    def tidy(self, folder: str, names: Iterable[str]) -> None:
        """Delete what killed writers of files `names` of `folder` left half written."""

    def log(self, name: str) -> Log:
        """Open a commit log for appending, alone. Raises StoreError while another has it."""

    def read_log(self, name: str) -> list[Entry]:
        """The good lines of a log; none where there is no log."""

    def logs(self, folder: str) -> list[str]:
        """Names of the logs in `folder`, sorted."""

    def read_logs(self, folder: str) -> list[Entry]:
        """The good lines of all logs in `folder`, log by log."""

    def busy(self, name: str) -> bool:
        """Whether another process is known to be writing a log. A bucket does not know."""

    def drop_log(self, name: str) -> None:
        """Delete a log, if it is there."""


class LocalFiles:
    """Files in a folder of this machine, or of one that it mounts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def where(self, name: str = "") -> str:
        return str(self._path(name))

    def create(self, name: str) -> Upload:
        return _LocalUpload(self._path(name))

    def put(self, name: str, data: Buffer) -> None:
        path = self._path(name)
        _make(path.parent)
        write_bytes(path, data)

    def get(self, name: str) -> bytes | None:
        path = self._path(name)
        try:
            with explained(path, "read"):
                return path.read_bytes()
        except StoreError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                return None
            raise

    def map(self, name: str, offset: int, size: int) -> Bytes:
        path = self._path(name)
        with explained(path, "map"):
            found = path.stat().st_size
            if found < offset + size:
                raise StoreError(f"{path} holds {found} bytes, {offset + size} were to be there")
            return np.asarray(np.memmap(path, np.uint8, "c", offset, (size,)))

    def size(self, name: str) -> int | None:
        path = self._path(name)
        with explained(path, "look at"):
            try:
                return path.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def names(self, folder: str) -> list[str]:
        path = self._path(folder)
        with explained(path, "list"):
            try:
                found = [e.name for e in os.scandir(path) if e.is_file()]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(name for name in found if name[0] != ".")

    def delete(self, name: str) -> None:
        path = self._path(name)
        with explained(path, "delete"):
            path.unlink(missing_ok=True)

    def tidy(self, folder: str, names: Iterable[str]) -> None:
        ours, path = set(names), self._path(folder)
        if not path.is_dir():
            return
        with explained(path, "tidy"):
            for stray in path.glob(".*.tmp"):
                if stray.name[1:].rsplit(".", 2)[0] in ours:
                    stray.unlink(missing_ok=True)

    def log(self, name: str) -> Log:
        path = self._path(name + LOG)
        _make(path.parent)
        return CommitLog(path)

    def read_log(self, name: str) -> list[Entry]:
        return read_commits(self._path(name + LOG))

    def logs(self, folder: str) -> list[str]:
        return [
            f"{folder}/{name.removesuffix(LOG)}"
            for name in self.names(folder)
            if name.endswith(LOG)
        ]

    def read_logs(self, folder: str) -> list[Entry]:
        return [entry for name in self.logs(folder) for entry in self.read_log(name)]

    def busy(self, name: str) -> bool:
        path = self._path(name + LOG)
        with explained(path, "lock"):
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                return False
            try:
                return not lock_now(handle)
            finally:
                os.close(handle)

    def drop_log(self, name: str) -> None:
        self.delete(name + LOG)
        with suppress(OSError):  # the folder goes with the last one
            self._path(name).parent.rmdir()

    def _path(self, name: str) -> Path:
        return self.root / PurePosixPath(name)


class _LocalUpload:
    """A temporary file beside its place, renamed into it when it is whole and synced."""

    def __init__(self, path: Path) -> None:
        _make(path.parent)
        self._path = path
        self._temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with explained(path):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            self._handle: int | None = os.open(self._temp, flags, 0o666)
        self._written = self._begun = 0
        """Bytes; of the latter the disk was told already."""

    def write(self, data: Buffer) -> None:
        assert self._handle is not None
        view = memoryview(data).cast("B")
        try:
            with explained(self._path):
                for start in range(0, len(view), PIECE):
                    write_all(self._handle, view[start : start + PIECE])
        except StoreError:
            self.abort()  # half a file would keep a full disk full
            raise
        self._written += len(view)
        if self._written - self._begun >= AHEAD:
            begin_sync(self._handle, self._begun, self._written - self._begun)
            self._begun = self._written

    def finish(self) -> None:
        assert self._handle is not None
        try:
            with explained(self._path):
                os.fsync(self._handle)
                self._temp.replace(self._path)
                sync_folder(self._path.parent)
        except StoreError:
            self.abort()
            raise
        os.close(self._handle)
        self._handle = None

    def abort(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            self._temp.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    """Create a folder and make its name durable."""
    if not folder.is_dir():
        with explained(folder, "create"):
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
