"""Commits of several writers: parts of their own, joined in order, and withdrawn one by one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from arrays import ABOUT, CHUNK, SHARD, SHARDS, N, plan, put, reasons, record, tree, written

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import ActivationReader, finish
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import join, open_part, read_entries, withdraw

HOLD = """
import sys
from pathlib import Path
from arrays import ABOUT, plan, put
from sae_cli.store.acts.recorder import Recorder
with Recorder(Path(sys.argv[1]), plan(), ABOUT, part=range(0, 2)) as recorder:
    put(recorder, stop=24)
    print("held", flush=True)
    sys.stdin.readline()
    put(recorder, first=24, stop=48)
"""


def entry(k: int) -> dict[str, object]:
    return {"table": "activations", "k": k, "rows": 1}


def test_a_second_process_on_a_part_is_told_so_and_the_first_goes_on(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tests)},
        cwd=tests.parent,
    )
    assert first.stdout is not None and first.stdin is not None
    try:
        assert first.stdout.readline() == "held\n"
        before = tree(tmp_path)
        with pytest.raises(StoreError, match="another process is writing") as raised:
            Recorder(tmp_path, plan(), ABOUT, part=range(2))
        assert "its committed" in str(raised.value.hint)
        for part in (range(4), range(1, 2), range(1, 3)):
            with pytest.raises(StoreError, match="000000-000002, which overlaps shards") as raised:
                Recorder(tmp_path, plan(), ABOUT, part=part)
            assert "its committed" in str(raised.value.hint)
        assert tree(tmp_path) == before
        record(tmp_path, part=range(2, 4))  # beside it there is room
        first.communicate("go on\n", timeout=60)
        assert first.returncode == 0
    finally:
        first.kill()
        first.wait()
    finish(tmp_path)
    assert tree(tmp_path) == tree(written(tmp_path / "whole"))


def test_a_dead_writers_part_is_open_again(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    child = os.fork()
    if child == 0:
        open_part(files, range(2)).append(entry(0))
        os._exit(0)
    os.waitpid(child, 0)
    log = open_part(files, range(2))
    assert [e["k"] for e in log.entries] == [0]
    log.close()


@pytest.mark.parametrize("sizes", [(1, 4), (4, 1), (2, 3, 1)])
def test_parts_may_be_of_another_size_when_a_dead_ones_are_taken_up(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    """Each attempt cuts the array anew, and dies with one more shard."""
    for n, size in enumerate(sizes):
        first = n // size * size
        with Recorder(
            tmp_path, plan(), ABOUT, part=range(first, min(first + size, SHARDS))
        ) as recorder:
            assert n in recorder.missing
            put(recorder, n * SHARD, (n + 1) * SHARD)
    assert len(LocalFiles(tmp_path).logs("commits")) == len(sizes)
    record(tmp_path, part=range(2))
    record(tmp_path, part=range(2, 4))
    finish(tmp_path)
    assert tree(tmp_path) == tree(written(tmp_path.with_name("whole")))


def test_joined_commits_are_in_order_once_each_whoever_wrote_them(tmp_path: Path) -> None:
    logs = []
    for name, parts in (("a", [[2, 3], [1, 0]]), ("b", [[3], [0, 2, 1]])):
        files = LocalFiles(tmp_path / name)
        for n, shards in enumerate(parts):
            log = open_part(files, range(10 * n, 10 * n + 10))
            for k in shards:
                log.append(entry(k))
            log.close()
        join(files, read_entries(files))
        assert sorted(os.listdir(tmp_path / name)) == ["commits.jsonl"]
        assert [e["k"] for e in read_entries(files)] == [0, 1, 2, 3]
        logs.append((tmp_path / name / "commits.jsonl").read_bytes())
    assert logs[0] == logs[1]


def test_a_commit_in_both_places_counts_once(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    log = open_part(files, range(4))
    log.append(entry(1))
    log.close()
    data = next((tmp_path / "commits").iterdir()).read_bytes()
    join(files, read_entries(files))
    (tmp_path / "commits").mkdir()
    (tmp_path / "commits" / "000000-000004.jsonl").write_bytes(data)  # killed while joining
    assert [e["k"] for e in read_entries(files)] == [1]


def test_no_commit_is_out_of_sight_while_they_are_joined(tmp_path: Path) -> None:
    looks = 0
    for n in range(100):
        files = LocalFiles(tmp_path / str(n))
        for part in (range(2), range(2, 4)):
            log = open_part(files, part)
            for k in part:
                log.append(entry(k))
            log.close()
        joiner = threading.Thread(target=join, args=(files, read_entries(files)))
        joiner.start()
        while joiner.is_alive():
            assert len(read_entries(files)) == SHARDS
            looks += 1
        joiner.join()
        assert os.listdir(tmp_path / str(n)) == ["commits.jsonl"]
    assert looks > 100


def test_withdrawn_shards_and_no_others_are_made_anew_with_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path)
    before, inodes = tree(tmp_path), {}
    for path in tmp_path.rglob("c.*"):
        inodes[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    withdraw(LocalFiles(tmp_path), [("activations", 1), ("activations", 3)])
    with Recorder(tmp_path, plan(), ABOUT) as recorder:
        assert recorder.missing == [1, 3]
        kept = [int((reasons()[at : at + CHUNK] == 0).sum()) for at in range(0, N, CHUNK)]
        kept[3:6] = kept[9:12] = [0, 0, 0]
        assert ActivationReader(tmp_path).kept.tolist() == kept
        put(recorder)
    finish(tmp_path)
    assert tree(tmp_path) == before
    for path, was in inodes.items():
        same = (path.stat().st_ino, path.stat().st_mtime_ns) == was
        assert same == (path.name.split(".")[1] in "02"), path
