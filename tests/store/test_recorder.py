"""Rows on their way to disk: the same bytes however they come, and nothing wrong gets in."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrays import (
    ABOUT,
    ALL,
    CHUNK,
    SHARD,
    SHARDS,
    D,
    N,
    acts,
    plan,
    put,
    reasons,
    record,
    tree,
    written,
)

from sae_cli.errors import StoreError
from sae_cli.store.activations import ActivationReader, finish
from sae_cli.store.encodings import Encoding
from sae_cli.store.files import LocalFiles
from sae_cli.store.journal import read_entries
from sae_cli.store.moments import Moments
from sae_cli.store.recorder import Recorder
from sae_cli.store.strands import Lanes

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


def committed(folder: Path) -> list[int]:
    return [entry["k"] for entry in read_entries(LocalFiles(folder))]


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


def test_rows_of_another_dtype_are_stored_in_the_plans(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a", plan(), ABOUT) as recorder:
        recorder.put(0, acts().to(torch.bfloat16), reasons())
        recorder.drain()
    record(tmp_path / "b")
    for folder in (tmp_path / "a", tmp_path / "b"):
        finish(folder)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_statistics_cover_the_rows_that_count(tmp_path: Path) -> None:
    written(tmp_path, "float32")
    reader = ActivationReader(tmp_path)
    for s, stats in [
        *((s, reader.shard_moments(s)) for s in range(SHARDS)),
        (None, reader.stats()),
    ]:
        of = slice(None) if s is None else slice(s * SHARD, (s + 1) * SHARD)
        kept = acts()[of][torch.from_numpy(reasons()[of] == 0)].double().numpy()
        assert stats.count == len(kept)
        np.testing.assert_allclose(stats.mean, kept.mean(0), atol=1e-6)
        np.testing.assert_allclose(stats.var, kept.var(0), rtol=1e-5)
        assert stats.mean_norm == pytest.approx(np.linalg.norm(kept, axis=1).mean(), rel=1e-6)
    merged = Moments.none(D)
    for s in range(SHARDS):
        merged = merged.merged(reader.shard_moments(s))
    assert merged.to_bytes() == reader.stats().to_bytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_in_a_row_that_counts_is_refused_by_row(tmp_path: Path, bad: float) -> None:
    x = acts().clone()
    x[3 * CHUNK + 2, 5] = bad
    with Recorder(tmp_path, plan(), ABOUT) as recorder:
        with pytest.raises(StoreError, match="rows 24 to 31 hold NaN or Inf in rows that count"):
            recorder.put(0, x, np.zeros(N, np.uint8))
            recorder.drain()
        with pytest.raises(StoreError, match="rows 24 to 31"):
            recorder.drain()  # it is not forgotten
    assert 1 not in committed(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_bad_number_in_a_masked_row_is_none_of_ours(tmp_path: Path) -> None:
    x, masked = acts().clone(), reasons().copy()
    x[26], masked[26] = float("nan"), 4
    with Recorder(tmp_path, plan(), ABOUT) as recorder:
        recorder.put(0, x, masked)
        recorder.drain()
    finish(tmp_path)
    reader = ActivationReader(tmp_path)
    assert reader.chunk(3)[2].isnan().all() and reader.keep().sum() == (masked == 0).sum()
    assert reader.stats().finite


def test_a_number_that_float16_does_not_hold_is_refused_with_what_to_do(tmp_path: Path) -> None:
    x = acts().clone()
    x[0, 0] = 1e5
    with (
        Recorder(tmp_path, plan("float16"), ABOUT) as recorder,
        pytest.raises(StoreError, match="store a wider type"),
    ):
        recorder.put(0, x, np.zeros(N, np.uint8))
        recorder.drain()


def offers() -> list[tuple[int, Any, Any, str]]:
    x, zeros = acts(), np.zeros(N, np.uint8)
    return [
        (48, x[:8, :-1], zeros[:8], r"rows of shape \(8, 69\)"),
        (48, x[:8], zeros[:7], r"reasons of shape \(7,\), they have 70 dimensions"),
        (48, x[:8], zeros[:16].reshape(8, 2), r"reasons of shape \(8, 2\)"),
        (48, x[:8].to(torch.int32), zeros[:8], "got torch.int32 and uint8"),
        (48, x[:8], zeros[:8].astype(np.int64), "got torch.float32 and int64"),
        (49, x[:8], zeros[:8], "row 1 of shard 2 was offered, but row 0 is next"),
        (29, x[:8], zeros[:8], "row 5 of shard 1 was offered, but row 4 is next"),
        (24, x[:8], zeros[:8], "row 0 of shard 1 was offered, but row 4 is next"),
    ]


def test_wrong_rows_are_refused_and_the_right_ones_go_on(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a", plan(), ABOUT) as recorder:
        put(recorder, stop=28)
        for first, rows, why, message in offers():
            with pytest.raises(StoreError, match=message) as raised:
                recorder.put(first, rows, why)
            assert str(tmp_path) in raised.value.what
        recorder.drain()
        assert committed(tmp_path / "a") == [0]
        put(recorder, first=28)
    finish(tmp_path / "a")
    written(tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_rows_of_another_part_are_passed_over(tmp_path: Path) -> None:
    with Recorder(tmp_path, plan(), ABOUT, part=range(1, 3)) as recorder:
        put(recorder)
        assert recorder.missing == [] and recorder.committed_rows == 2 * SHARD
    assert committed(tmp_path) == [1, 2]


def test_a_recorder_that_is_left_gives_its_share_of_the_lanes_back(tmp_path: Path) -> None:
    size = CHUNK * D * 2
    with Lanes(1, limit=size) as lanes:
        for n in range(3):  # would wait for ever if one kept it
            with Recorder(tmp_path / str(n), plan(), ABOUT, lanes=lanes) as recorder:
                recorder.put(0, acts()[:CHUNK], reasons()[:CHUNK])
        with Recorder(tmp_path / "whole", plan(), ABOUT, lanes=lanes) as recorder:
            put(recorder)
    assert ActivationReader(tmp_path / "whole").complete
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_shard_that_is_just_being_committed_is_waited_for(tmp_path: Path) -> None:
    begun, gate = threading.Event(), threading.Event()

    def point(name: str) -> None:
        if name == "written acts":
            begun.set()
            gate.wait(20)

    with Lanes(2) as lanes:
        with Recorder(tmp_path, plan(), ABOUT, lanes=lanes, on_point=point) as recorder:
            recorder.put(0, acts()[:SHARD], reasons()[:SHARD])
            assert begun.wait(20)
            threading.Timer(0.05, gate.set).start()
        assert committed(tmp_path) == [0]
        lanes.drain()  # it went well


def test_another_plan_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Recorder(tmp_path, plan(), ABOUT) as recorder:
        put(recorder, stop=SHARD)
    mine = plan()
    others = [
        (replace(mine, rows=N + 1), ABOUT, "acts/zarr.json.*another plan: shape"),
        (replace(mine, d=D + 1), ABOUT, "acts/zarr.json.*another plan: shape"),
        (replace(mine, chunk_rows=12), ABOUT, "acts/zarr.json.*another plan: codecs"),
        (replace(mine, shard_rows=48), ABOUT, "acts/zarr.json.*another plan: chunk_grid"),
        (replace(mine, encoding="float32"), ABOUT, "acts/zarr.json.*another plan: codecs"),
        (mine, {"site": "attn_out"}, "site is 'mlp_out', this stage needs 'attn_out'"),
    ]
    before = tree(tmp_path)
    for other, about, message in others:
        with pytest.raises(StoreError, match=message) as raised:
            Recorder(tmp_path, other, about)
        assert raised.value.hint == "this folder's data must go before the stage can run anew"
    assert tree(tmp_path) == before
    record(tmp_path)
    assert committed(tmp_path) == [0, 1, 2, 3]
