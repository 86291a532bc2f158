"""What is stored of rows, and what the statistics tell of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from arrays import ABOUT, SHARD, SHARDS, D, acts, plan, reasons, record, tree, written

from sae_cli.store.acts.array import ActivationReader, finish
from sae_cli.store.acts.moments import Moments
from sae_cli.store.acts.recorder import Recorder


def test_rows_of_another_dtype_are_stored_in_the_plans(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a", plan(), ABOUT) as recorder:
        recorder.put(0, acts().to(torch.bfloat16), reasons())
        recorder.drain()
    record(tmp_path / "b")
    files = [tree(tmp_path / name / "activations.zarr" / "acts") for name in ("a", "b")]
    assert files[0] == files[1] and len(files[0]) == SHARDS + 1


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
