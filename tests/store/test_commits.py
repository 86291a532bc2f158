"""Atomic files and the commit log: whole lines or none, one writer, and torn ends cut off."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from sae_cli.errors import StoreError
from sae_cli.store import atomic
from sae_cli.store.tables.commits import CommitLog, read_commits


def log_of(path: Path, n: int) -> bytes:
    with CommitLog(path) as log:
        for k in range(n):
            log.append({"k": k, "state": {"cursor": k * 0.1}})
    return path.read_bytes()


def test_each_line_is_json_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = log_of(path, 3).splitlines()
    assert [json.loads(line)["k"] for line in lines] == [0, 1, 2]
    assert read_commits(path)[2] == {"k": 2, "state": {"cursor": 0.2}}
    assert read_commits(tmp_path / "none") == []


def test_cut_anywhere_the_log_keeps_exactly_the_whole_lines(tmp_path: Path) -> None:
    data = log_of(tmp_path / "log", 2)
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in range(len(data) + 1):
        path = tmp_path / "cut"
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert len(read_commits(path)) == whole
        with CommitLog(path) as log:
            assert len(log.entries) == whole
            for k in range(whole, 2):
                log.append({"k": k, "state": {"cursor": k * 0.1}})
        assert path.read_bytes() == data
        path.unlink()


@pytest.mark.parametrize("at", [3, 40, 90])
def test_a_flipped_bit_ends_the_log_before_its_line(tmp_path: Path, at: int) -> None:
    path = tmp_path / "log"
    data = bytearray(log_of(path, 3))
    line = bytes(data[:at]).count(b"\n")
    data[at] ^= 1
    path.write_bytes(data)
    assert len(read_commits(path)) == line


def test_a_second_writer_is_told_so_and_a_reader_is_not_bothered(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with CommitLog(path) as log:
        log.append({"k": 0})
        with pytest.raises(StoreError, match="another process is writing"):
            CommitLog(path)
        assert read_commits(path) == [{"k": 0}]
    with CommitLog(path) as log:
        assert log.entries == [{"k": 0}]


def test_a_full_disk_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    before = log_of(path, 1)
    write = os.write

    def half_then_full(handle: int, data: memoryview) -> int:
        if len(data) > 10:
            return write(handle, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with CommitLog(path) as log:
        monkeypatch.setattr(os, "write", half_then_full)
        with pytest.raises(StoreError, match="free some space"):
            log.append({"k": 100})
        monkeypatch.undo()
        assert path.read_bytes() == before
        log.append({"k": 1})
    assert [entry["k"] for entry in read_commits(path)] == [0, 1]


def test_an_atomic_write_replaces_whole_files_and_leaves_no_strays(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    atomic.write_json(path, {"a": 1})
    atomic.write_json(path, {"a": [2, "ä"]})
    assert atomic.read_json(path) == {"a": [2, "ä"]}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert atomic.read_json(tmp_path / "none") is None


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    atomic.write_bytes(path, b"old")

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match="can't write"):
        atomic.write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"


def test_strays_are_swept_by_name_and_nothing_else_goes(tmp_path: Path) -> None:
    for name in (".a.0123.tmp", ".b.0123.tmp", "a.tmp", "a"):
        (tmp_path / name).touch()
    assert atomic.sweep(tmp_path, "a") == 1
    assert atomic.sweep(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.tmp"]


def test_damaged_json_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "done.json"
    path.write_text('{"a": ')
    with pytest.raises(StoreError, match=r"done\.json is damaged"):
        atomic.read_json(path)
