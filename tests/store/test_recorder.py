"""Rows on their way to disk: the same bytes however they come."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from arrays import (
    ABOUT,
    ALL,
    CHUNK,
    SHARD,
    SHARDS,
    N,
    acts,
    committed,
    plan,
    put,
    reasons,
    record,
    tree,
)

from sae_cli.store.acts.array import finish
from sae_cli.store.acts.encodings import Encoding
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.acts.recorder import Recorder

WRITER = """
import sys
from pathlib import Path
from arrays import record
first, end, step, threads = map(int, sys.argv[3:])
record(Path(sys.argv[1]), sys.argv[2], part=range(first, end), step=step, threads=threads)
"""


@pytest.fixture(scope="module", params=ALL)
def encoding(request: pytest.FixtureRequest) -> Encoding:
    name: Encoding = request.param
    return name


@pytest.fixture(scope="module")
def whole(encoding: Encoding, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every file of an array that one writer made, undisturbed, from one piece."""
    folder = tmp_path_factory.mktemp("whole")
    record(folder, encoding, step=N, threads=1)
    finish(folder)
    return tree(folder)


@pytest.mark.parametrize(("step", "threads"), [(1, 2), (5, 4), (CHUNK, 1), (SHARD, 3), (37, 8)])
def test_pieces_and_threads_change_no_byte(
    tmp_path: Path, encoding: Encoding, whole: dict[str, str], step: int, threads: int
) -> None:
    record(tmp_path, encoding, step=step, threads=threads)
    finish(tmp_path)
    assert tree(tmp_path) == whole


@pytest.mark.parametrize(
    "parts", [[(0, 1), (1, 4)], [(2, 4), (0, 2)], [(n, n + 1) for n in (3, 1, 0, 2)]]
)
def test_parts_of_any_size_in_any_order_change_no_byte(
    tmp_path: Path, encoding: Encoding, whole: dict[str, str], parts: list[tuple[int, int]]
) -> None:
    for first, end in parts:
        record(tmp_path, encoding, part=range(first, end))
    logs = {f"{first:06d}-{end:06d}.jsonl" for first, end in parts}
    assert {path.name for path in (tmp_path / "commits").iterdir()} == logs
    summary, records = finish(tmp_path)
    assert tree(tmp_path) == whole
    assert {str(path.relative_to(tmp_path)) for path in records} == {
        name for name in whole if "/c." not in name
    }
    assert summary["rows"] == N and summary["shards"] == SHARDS
    finish(tmp_path)
    assert tree(tmp_path) == whole


def test_a_resumed_writer_changes_no_byte(
    tmp_path: Path, encoding: Encoding, whole: dict[str, str]
) -> None:
    with Recorder(tmp_path, plan(encoding), ABOUT) as recorder:
        put(recorder, stop=2 * SHARD + 5)  # five rows of the third shard are forgotten
        assert (recorder.missing, recorder.committed_rows) == ([2, 3], 2 * SHARD)
    with Recorder(tmp_path, plan(encoding), ABOUT) as recorder:
        assert recorder.missing == [2, 3] and recorder.rows_of(3) == range(3 * SHARD, N)
        put(recorder, first=2 * SHARD, stop=3 * SHARD)
    record(tmp_path, encoding, step=11)  # from row 0: what is committed is passed over
    finish(tmp_path)
    assert tree(tmp_path) == whole


def test_writers_in_processes_of_their_own_change_no_byte(
    tmp_path: Path, encoding: Encoding, whole: dict[str, str]
) -> None:
    tests = Path(__file__).parents[1]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, encoding, *map(str, how)],
            env={**os.environ, "PYTHONPATH": str(tests)},
            cwd=tests.parent,
        )
        for how in ((0, 2, 7, 2), (2, 3, 24, 1), (3, 4, 1, 4))
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    finish(tmp_path)
    assert tree(tmp_path) == whole


def test_rows_of_another_part_are_passed_over(tmp_path: Path) -> None:
    with Recorder(tmp_path, plan(), ABOUT, part=range(1, 3)) as recorder:
        put(recorder)
        assert recorder.missing == [] and recorder.committed_rows == 2 * SHARD
    assert committed(tmp_path) == [1, 2]


def test_norms_that_are_known_change_no_byte(
    tmp_path: Path, encoding: Encoding, whole: dict[str, str]
) -> None:
    with Recorder(tmp_path, plan(encoding), ABOUT) as recorder:
        recorder.put(0, acts(), reasons(), norms_of(acts()))
        recorder.drain()
    finish(tmp_path)
    assert tree(tmp_path) == whole
