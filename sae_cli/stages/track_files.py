"""Which steps the files of earlier wandb attempts hold: those that a sync will upload.

A `.wandb` file is a log in LevelDB's format (after a header of 7 bytes, blocks of 32 KiB of
records; github.com/google/leveldb, doc/log_format.md) of wandb's own messages. wandb has no public
reader of it. The end may be torn, where a process was killed: it counts as far as it can be read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

HEADER, BLOCK, PREFIX = 7, 32 * 1024, 7
"""Bytes before the first block, of a block, and before each piece in it: a checksum of 4, the
length in 2, the kind in 1."""
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
"""Kinds of pieces. Zero fills what is left."""
PATIENCE_S = 10.0
"""How long a writer that was told to finish is waited for."""


def last_step(folder: Path, run: str) -> int:
    """The highest step that attempts of `run` left below `folder`; -1 where there is none."""
    files = sorted((folder / "wandb").glob(f"*run-*-{run}*/run-{run}.wandb"))
    return max((step for file in files for step, _ in history(file)), default=-1)


def wait_for_step(folder: Path, run: str, step: int) -> None:
    """Wait until the files say so, or PATIENCE_S are over."""
    end = time.monotonic() + PATIENCE_S
    while last_step(folder, run) < step and time.monotonic() < end:
        time.sleep(0.02)


def history(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each step that was logged to a `.wandb` file, with the JSON of its numbers, in order."""
    from google.protobuf.message import DecodeError  # wandb brings it
    from wandb.proto import wandb_internal_pb2 as messages

    for data in records(file.read_bytes()):
        record = messages.Record()
        try:
            record.ParseFromString(data)
        except DecodeError:
            return
        if record.WhichOneof("record_type") != "history":
            continue
        items = {item.key or "/".join(item.nested_key): item for item in record.history.item}
        numbers = {key: str(item.value_json) for key, item in items.items()}
        yield int(record.history.step.num), numbers


def records(data: bytes) -> Iterator[bytes]:
    """The whole records of a log."""
    at, parts = HEADER, b""
    while at + PREFIX <= len(data):
        left = BLOCK - at % BLOCK
        if left < PREFIX:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece = data[at + PREFIX : at + PREFIX + size]
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or len(piece) < size:
            return
        at += PREFIX + size
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        if kind in (WHOLE, LAST):
            yield parts
