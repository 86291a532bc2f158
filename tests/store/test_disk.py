"""A full disk and lost permissions, on a small file system of their own: a clear word, nothing
lost, and the same bytes once the trouble is over.

A file system can be mounted by root only (in a container, by one that is allowed to): skipped
elsewhere.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from arrays import tree

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import ActivationReader, ArrayPlan, finish
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.strands import Lanes
from sae_cli.store.blocks import BlockWriter
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import claim
from sae_cli.store.tables.commits import read_commits
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import withdraw

ROWS, D = 2048, 256
PLAN = ArrayPlan(ROWS, D, 64, 128, "bfloat16")  # 16 shards of 64 KiB, 1 MiB in all
PAGE = 4096


def mount(*how: str) -> None:
    try:
        done = subprocess.run(["mount", *how], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 60 % of the array and its records."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(
        "-t", "tmpfs", "-o", f"size={int(0.6 * 1.25 * 2**20) // PAGE * PAGE}", "tmpfs", str(folder)
    )
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write(folder: Path) -> None:
    """Write what is missing; no more than a shard or two is under way at a time."""
    x = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(1))
    with Lanes(2, limit=2**16) as lanes, Recorder(folder, PLAN, lanes=lanes) as recorder:
        for at in range(0, ROWS, 100):
            recorder.put(at, x[at : at + 100], np.zeros(len(x[at : at + 100]), np.uint8))
        recorder.drain()


def whole(folder: Path) -> dict[str, str]:
    write(folder)
    finish(folder)
    return tree(folder)


def sound(folder: Path) -> int:
    """How many shards are committed; each is as it was written."""
    reader = ActivationReader(folder).table
    assert [d for s in reader.commits for d in reader.damages(s)] == []
    return len(reader.commits)


def test_a_full_disk_stops_it_and_room_lets_it_go_on(disk: Path, tmp_path: Path) -> None:
    folder = disk / "x"
    for _ in range(2):  # it stays full: trying again helps nothing and harms nothing
        with pytest.raises(StoreError, match="No space left on device") as raised:
            write(folder)
        assert f"can't write {folder}/activations.zarr/" in raised.value.what
        assert raised.value.hint == "free some space and run the same command again"
        assert not list(folder.rglob("*.tmp"))
        assert 4 <= sound(folder) < 16
    kept = {path: path.stat().st_ino for path in folder.rglob("c.0*")}
    mount("-o", "remount,size=4m", str(disk))
    assert whole(folder) == whole(tmp_path / "undisturbed")
    assert {path: path.stat().st_ino for path in kept} == kept


def test_a_disk_full_to_the_last_byte_tears_no_log(disk: Path) -> None:
    folder = disk / "x"
    with pytest.raises(StoreError, match="No space left"):
        write(folder)
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(PAGE))
    before = sound(folder)
    for _ in range(3):
        with pytest.raises(StoreError, match="No space left"):
            write(folder)
    assert sound(folder) == before
    log = next((folder / "commits").iterdir())
    assert len(read_commits(log)) == len(log.read_bytes().splitlines())
    filler.unlink()
    mount("-o", "remount,size=4m", str(disk))
    write(folder)
    assert sound(folder) == 16


def test_a_full_disk_tears_no_token_blocks(disk: Path, tmp_path: Path) -> None:
    def blocks(folder: Path) -> None:
        with BlockWriter(folder, 128, {"train": 1024}, 64) as writer:
            while not writer.complete("train"):
                n = writer.next_chunk("train")
                ids = np.full((64, 128), n, np.int32)
                writer.write("train", ids, ids.astype(np.int64), ids, ids.astype(np.uint8), n)

    with pytest.raises(StoreError, match="No space left"):
        blocks(disk / "x")
    assert not list(disk.rglob("*.tmp"))
    mount("-o", "remount,size=8m", str(disk))
    blocks(disk / "x")
    blocks(tmp_path / "undisturbed")
    assert tree(disk / "x") == tree(tmp_path / "undisturbed")


def test_a_disk_that_turns_read_only_stops_it_and_loses_nothing(disk: Path, tmp_path: Path) -> None:
    mount("-o", "remount,size=4m", str(disk))
    folder = disk / "x"
    x = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(1))
    keep = np.zeros(ROWS, np.uint8)
    half = 8 * 128
    recorder = Recorder(folder, PLAN)
    recorder.put(0, x[:half], keep[:half])
    recorder.drain()
    recorder.close()  # a file that is open for writing keeps a disk from turning read-only
    mount("-o", "remount,ro", str(disk))
    with pytest.raises(StoreError, match="Read-only file system") as raised:
        write(folder)
    assert str(folder) in raised.value.what
    with pytest.raises(StoreError, match="Read-only file system"), claim(StageDir(folder)):
        pass
    assert sound(folder) == 8  # readers do not mind
    mount("-o", "remount,rw", str(disk))
    assert whole(folder) == whole(tmp_path / "undisturbed")


def test_a_folder_that_may_not_be_written_is_named(disk: Path, tmp_path: Path) -> None:
    """Also for root, who heeds no mode: the folder of a column lies on a disk that is read-only."""
    mount("-o", "remount,size=4m", str(disk))
    folder, other = tmp_path / "x", tmp_path / "undisturbed"
    (disk / "acts").mkdir()
    (folder / "activations.zarr").mkdir(parents=True)
    (folder / "activations.zarr" / "acts").symlink_to(disk / "acts")
    write(folder)
    withdraw(LocalFiles(folder), [("activations", 3), ("activations", 9)])
    mount("-o", "remount,ro", str(disk))
    with pytest.raises(StoreError, match=r"can't write .*/acts/c\.3\.0: Read-only file system"):
        write(folder)
    assert sound(folder) == 14 and not list(folder.rglob("*.tmp"))
    mount("-o", "remount,rw", str(disk))
    assert whole(folder).items() < whole(other).items()
    assert tree(disk / "acts") == tree(other / "activations.zarr" / "acts")


@pytest.mark.skipif(os.geteuid() == 0, reason="root heeds no permissions")
@pytest.mark.parametrize("lost", [".", "commits", "activations.zarr/acts"])
def test_permissions_lost_and_found(tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "x"
    write(folder)
    withdraw(LocalFiles(folder), [("activations", 3)])
    (folder / "commits").mkdir()
    (folder / lost).chmod(0o500)
    with pytest.raises(StoreError, match=f"can't .*{folder}.*Permission denied"):
        write(folder)
        finish(folder)
    assert sound(folder) in (15, 16)
    (folder / lost).chmod(0o700)
    assert whole(folder) == whole(tmp_path / "undisturbed")
