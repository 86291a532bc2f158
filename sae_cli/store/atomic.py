"""The few acts on a file system that the rest of the store rests on.

A file is written beside its place, synced, and renamed into it, so that a reader (or the machine
after a power cut) finds the old bytes or the new ones, never a mixture. It relies on `rename`
within a folder being atomic and on `fsync` meaning it: local file systems and NFSv3 or later.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sae_cli.errors import StoreError

PIECE = 2**20
Buffer = bytes | memoryview


@contextmanager
def explained(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn an OSError inside into a StoreError that says what could not be done, where, and why."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"can't {doing} {path}: {error.strerror or error}",
            hint="free some space and run the same command again" if full else None,
        ) from error


def write_bytes(path: Path, data: Buffer, *, durable: bool = True) -> None:
    """Put `data` at `path` atomically. `durable=False` skips the syncs (progress, views)."""
    with explained(path):
        temp = write_temp(path, data, durable=durable)
        temp.replace(path)
        if durable:
            sync_folder(path.parent)


def write_temp(
    path: Path,
    data: Buffer,
    *,
    durable: bool = True,
    on_piece: Callable[[], None] | None = None,
) -> Path:
    """Write `data` to a temporary file beside `path` and return its path; the caller renames it.

    `on_piece` is called after each mebibyte, before the sync.
    """
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    view = memoryview(data).cast("B")
    try:
        with temp.open("xb", buffering=0) as file:
            for start in range(0, len(view), PIECE):
                write_all(file.fileno(), view[start : start + PIECE])
                if on_piece is not None:
                    on_piece()
            if durable:
                os.fsync(file.fileno())
    except OSError:
        temp.unlink(missing_ok=True)  # half a file would keep a full disk full
        raise
    return temp


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Put `value` at `path` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), durable=durable)


def read_json(path: Path) -> Any:
    """The JSON value at `path`, or None where there is no file. Raises StoreError if damaged."""
    try:
        with explained(path, "read"):
            return json.loads(path.read_bytes())
    except StoreError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return None
        raise
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def sync_folder(folder: Path) -> None:
    """Make the renames, creations and deletions in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make a file durable that someone else wrote, and its entry in its folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits. Raises StoreError when it can't be read."""
    with explained(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path, name: str = "*") -> int:
    """Delete temporary files that killed writers of `name` left in `folder`; returns how many.

    Only for one who holds the folder's claim or lock: a living writer's file looks the same.
    """
    strays = [p for p in folder.glob(f".{name}.*.tmp") if not p.is_dir()]
    for stray in strays:
        stray.unlink(missing_ok=True)
    return len(strays)


def lock_now(handle: int) -> bool:
    """Take an exclusive lock on an open file, released by its close or its holder's death.

    Returns False when another holds it. Raises OSError on a file system without locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def append_all(handle: int, data: bytes) -> None:
    """Write all of `data` at the end of an open file and sync it; on failure, as if never begun."""
    before = os.fstat(handle).st_size
    try:
        write_all(handle, memoryview(data))
        getattr(os, "fdatasync", os.fsync)(handle)  # macOS has no fdatasync
    except OSError:
        os.ftruncate(handle, before)
        raise


def write_all(handle: int, view: memoryview) -> None:
    """Write all of `view` to an open file: the system may take less at a time."""
    while view:
        view = view[os.write(handle, view) :]


def begin_sync(handle: int, first: int, size: int) -> None:
    """Have the disk begin with `size` bytes of an open file, from byte `first` on, so that a later
    `fsync` finds them done. It promises nothing, and where the system can't (macOS), does nothing.
    """
    ask = _sync_file_range()
    if ask is not None:
        ask(handle, first, size, _WRITE)


_WRITE = 2
"""SYNC_FILE_RANGE_WRITE of sync_file_range(2)."""


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return found
