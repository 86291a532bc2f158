"""Rows that must not get in: refused by name, with what is on disk as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrays import ABOUT, CHUNK, SHARD, D, N, acts, committed, plan, put, record, tree, written

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import finish
from sae_cli.store.acts.recorder import Recorder


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
