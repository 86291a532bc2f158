"""The disk is told of a file's bytes while more of them come: each once, and no late heap."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sae_cli.store import atomic
from sae_cli.store.tables import files
from sae_cli.store.tables.files import AHEAD, LocalFiles

SIZES = (AHEAD // 3, AHEAD // 3, AHEAD, 5, 2 * AHEAD + 7, 1)


def test_no_more_than_a_part_of_a_file_is_left_for_its_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    def begin(handle: int, first: int, size: int) -> None:
        assert os.fstat(handle).st_size == first + size, "it is told of what was written, all of it"
        told.append((first, size))
        atomic.begin_sync(handle, first, size)

    monkeypatch.setattr(files, "begin_sync", begin)
    upload, written, data = LocalFiles(tmp_path).create("a"), 0, b""
    for i, size in enumerate(SIZES):
        upload.write(bytes([i]) * size)
        data, written = data + bytes([i]) * size, written + size
        assert written - sum(size for _, size in told) < AHEAD
    upload.finish()
    assert [first for first, _ in told] == [0, *(a + size for a, size in told[:-1])]
    assert (tmp_path / "a").read_bytes() == data


def test_a_system_without_it_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_sync_file_range", lambda: None)
    upload = LocalFiles(tmp_path).create("a")
    upload.write(b"x" * (AHEAD + 1))
    upload.finish()
    assert (tmp_path / "a").read_bytes() == b"x" * (AHEAD + 1)
