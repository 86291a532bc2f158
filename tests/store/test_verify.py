"""What can't be read is damage of its shard, and never the end of the process that looks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from arrays import SHARD, SHARDS, record, written

from sae_cli.errors import StoreError
from sae_cli.store.layout import StageDir
from sae_cli.store.records.verify import Check, check, look
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.reread import ReadFiles

CUT = """
import os, sys
from pathlib import Path
from sae_cli.store.tables import reader as tables
from sae_cli.store.layout import StageDir
from sae_cli.store.records.verify import check, look
victim, hash = Path(sys.argv[2]), tables.blake3
class Cutting:
    def __init__(self):
        self.hash = hash()
        self.hexdigest = self.hash.hexdigest
    def update(self, data):
        os.truncate(victim, 0)  # by somebody else, just now
        self.hash.update(data)
tables.blake3, tables._PIECE = Cutting, 1024
found = look(StageDir(Path(sys.argv[1])))
check([found], 1, lambda _: None)
for flaw in found.flaws:
    print(flaw.what)
"""


def looked(folder: Path, threads: int = 2) -> tuple[Check, int]:
    hashed = 0

    def on_bytes(n: int) -> None:
        nonlocal hashed
        hashed = n

    found = look(StageDir(folder))
    check([found], threads, on_bytes)
    return found, hashed


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "x-00000000"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of files (the ends of their paths) of which a disk can't read a sector."""
    names: set[str] = set()
    read = os.preadv

    def refusing(handle: int, buffers: Sequence[memoryview], offset: int) -> int:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if any(path.endswith(name) for name in names):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", refusing)
    return names


def test_a_bad_sector_is_damage_of_its_shard_and_the_rest_is_looked_at(
    stage: Path, broken: set[str]
) -> None:
    record(stage, "int8")
    sound, size = looked(stage)
    assert sound.flaws == [] and sound.shards == SHARDS and size == sound.bytes
    broken |= {"acts/c.1.0", "mask/c.3"}
    found, hashed = looked(stage)
    assert [flaw.shard for flaw in found.flaws] == [("activations", 1), ("activations", 3)]
    place = stage / "activations.zarr"
    for flaw, s, file in zip(found.flaws, (1, 3), ("acts/c.1.0", "mask/c.3"), strict=True):
        last = min((s + 1) * SHARD, 90) - 1
        assert flaw.what == (
            f"array activations.zarr, shard {s} (rows {s * SHARD} to {last}): "
            f"can't read {place / file}: Input/output error"
        )
    assert hashed == size


def test_a_file_that_is_cut_short_meanwhile_is_damage_and_no_crash(stage: Path) -> None:
    record(stage)
    victim = stage / "activations.zarr" / "acts" / "c.0.0"  # the first that is hashed
    ended = subprocess.run(
        [sys.executable, "-c", CUT, stage, victim],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.returncode}: {ended.stderr}"
    assert ended.stdout == (
        f"array activations.zarr, shard 0 (rows 0 to 23): {victim} is cut short: it ends before "
        "2048\n"
    )


def test_a_log_that_cannot_be_read_is_named(stage: Path) -> None:
    written(stage)
    log = stage / "commits.jsonl"
    log.unlink()
    log.mkdir()  # also for root, who may read everything
    found, _ = looked(stage)
    assert found.blind and [flaw.what for flaw in found.flaws] == [
        f"can't read {log}: Is a directory"
    ]


def test_what_is_read_is_what_is_mapped(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(10_000)
    (tmp_path / "a").write_bytes(data)
    mapped, read = LocalFiles(tmp_path), ReadFiles(tmp_path)
    for offset, size in ((0, 10_000), (17, 5_000), (9_999, 1)):
        assert bytes(read.map("a", offset, size)) == bytes(mapped.map("a", offset, size))
    with pytest.raises(StoreError, match="cut short: it ends before 10001"):
        read.map("a", 1, 10_000)
    with pytest.raises(StoreError, match=f"can't read {tmp_path / 'b'}: No such file"):
        read.map("b", 0, 1)
