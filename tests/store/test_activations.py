"""One array from its plan to its last step: readers beside writers, sealing, eviction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from arrays import (
    ABOUT,
    ALL,
    CHUNK,
    FLOATS,
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
from sae_cli.store.acts import array as activations
from sae_cli.store.acts.array import ActivationReader, ArrayPlan, declare, finish
from sae_cli.store.acts.encodings import Encoding
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.atomic import write_json
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import claim
from sae_cli.store.records.evict import begin_again, evict
from sae_cli.store.records.ledger import record_done, verify_done
from sae_cli.store.records.status import Status, state
from sae_cli.store.tables.commits import Entry
from sae_cli.store.tables.files import Files, LocalFiles
from sae_cli.store.tables.journal import read_entries


@pytest.mark.parametrize("encoding", ALL)
def test_what_is_read_is_what_was_written(tmp_path: Path, encoding: Encoding) -> None:
    written(tmp_path, encoding)
    reader = ActivationReader(tmp_path)
    assert (reader.n_rows, reader.planned_rows, reader.d, reader.complete) == (N, N, D, True)
    assert (reader.encoding, reader.chunk_rows, reader.n_chunks) == (encoding, CHUNK, 12)
    assert reader.attrs["site"] == "mlp_out" and reader.attrs["encoding"] == encoding
    rows = torch.cat([reader.chunk(k) for k in range(reader.n_chunks)])
    if encoding in FLOATS:
        assert torch.equal(rows, acts().to(getattr(torch, encoding)))
    else:
        assert rows.dtype == torch.float32 and (rows - acts()).abs().max() < 0.02
    assert (reader.keep() == (reasons() == 0)).all() and (reader.reasons() == reasons()).all()
    assert (reader.reasons(3) == reasons()[24:32]).all()
    kept = [int((reasons()[at : at + CHUNK] == 0).sum()) for at in range(0, N, CHUNK)]
    assert reader.kept.tolist() == kept


def test_a_reader_beside_a_writer_sees_committed_shards_only(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no array at"):
        ActivationReader(tmp_path)
    with Recorder(tmp_path, plan(), ABOUT) as recorder:
        assert ActivationReader(tmp_path).n_rows == 0
        put(recorder, stop=SHARD + 5)
        reader = ActivationReader(tmp_path)
        assert (reader.n_rows, reader.n_chunks, reader.complete) == (SHARD, 12, False)
        with pytest.raises(StoreError, match=r"chunk 3 is not committed \(1 of 4 shards are\)"):
            reader.chunk(3)
        with pytest.raises(StoreError, match="row 1 is not committed"):
            reader.shard_moments(1)
        with pytest.raises(StoreError, match="no statistics yet"):
            reader.stats()
        with pytest.raises(StoreError, match="1 of 4 shards: incomplete"):
            finish(tmp_path)


def test_an_array_that_is_only_declared_is_empty_and_not_half_there(tmp_path: Path) -> None:
    table = plan().table()
    declare(LocalFiles(tmp_path), table, plan().attrs(ABOUT))
    reader = ActivationReader(tmp_path)
    assert (reader.n_rows, reader.planned_rows) == (0, N) and reader.kept.tolist() == [0] * 12
    declare(LocalFiles(tmp_path), table, plan().attrs(ABOUT))
    with pytest.raises(StoreError, match="site is 'mlp_out', this stage needs 'x'"):
        declare(LocalFiles(tmp_path), table, plan().attrs({"site": "x"}))


@pytest.mark.parametrize("encoding", ALL)
def test_the_summary_counts_bytes_rows_and_loss(tmp_path: Path, encoding: Encoding) -> None:
    record(tmp_path, encoding)
    summary, records = finish(tmp_path)
    shards = [path.stat().st_size for path in tmp_path.rglob("c.*")]
    assert (summary["bytes"], summary["shards"], summary["rows"]) == (sum(shards), SHARDS, N)
    assert summary["kept"] == (reasons() == 0).sum()
    assert summary["mean_norm"] == pytest.approx(float(acts().norm(dim=1).mean()), rel=0.02)
    attrs = ActivationReader(tmp_path).attrs
    assert attrs.items() >= {**ABOUT, "rows": N, "kept": summary["kept"]}.items()
    assert ("fvu_loss" in attrs) == (encoding == "int8")
    if encoding == "int8":
        reader = ActivationReader(tmp_path)
        rows = torch.cat([reader.chunk(k) for k in range(12)])[reader.keep()].double()
        kept = acts()[reader.keep()].double()
        lost = (rows - kept).square().sum() / (kept - kept.mean(0)).square().sum()
        assert summary["fvu_loss"] == pytest.approx(float(lost), rel=1e-4) and lost < 2e-4
    group = json.loads((tmp_path / "activations.zarr" / "zarr.json").read_text())
    there = {path.parent.name for path in records if path.parent.name not in (tmp_path.name, "")}
    assert there == {"activations.zarr", *group["consolidated_metadata"]["metadata"]}


def test_a_mask_that_drops_everything_is_an_error(tmp_path: Path) -> None:
    with Recorder(tmp_path, ArrayPlan(4, D, 4, 4, "bfloat16")) as recorder:
        recorder.put(0, acts()[:4], np.ones(4, np.uint8))
        recorder.drain()
    with pytest.raises(StoreError, match="the mask drops every row") as raised:
        finish(tmp_path)
    assert raised.value.hint == "loosen data.mask in the spec"


def test_evicted_activations_are_made_anew_with_the_same_digest(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "cache" / "x-00000000")

    def run(missing: int) -> str:
        with claim(stage) as held:
            begin_again(stage)
            with Recorder(stage.path, plan(), ABOUT) as recorder:
                assert len(recorder.missing) == missing
                if missing:
                    with pytest.raises(StoreError, match="no statistics yet"):
                        ActivationReader(
                            stage.path
                        ).stats()  # those of an earlier time may lie there
                    assert state(stage).status is Status.RUNNING
                put(recorder, stop=2 * SHARD)
                assert ActivationReader(stage.path).n_rows == (2 * SHARD if missing else N)
                put(recorder, first=2 * SHARD)
            summary, records = finish(stage.path)
            return record_done(held, records, summary, 0.0).sha256

    first = run(SHARDS)
    before = tree(stage.path, but=["done.json"])
    assert run(0) == first
    verify_done(stage)
    assert evict(stage, stage.activation_data) > N * D * 2
    assert state(stage).status is Status.EVICTED and stage.stats.exists()
    assert run(SHARDS) == first
    assert state(stage).status is Status.DONE
    assert tree(stage.path, but=["done.json"]) == before


def test_a_reader_that_begins_while_the_last_shard_is_sealed_takes_nothing_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = StageDir(tmp_path / "cache" / "x-00000000")
    record(stage.path, part=range(3))

    def slowly(files: Files) -> list[Entry]:
        monkeypatch.undo()
        found = read_entries(files)
        with claim(stage) as held:  # meanwhile the writer is done
            record(stage.path)
            summary, records = finish(stage.path)
            record_done(held, records, summary, 0.0)
        return found

    monkeypatch.setattr(activations, "read_entries", slowly)
    early = ActivationReader(stage.path)
    assert (early.n_rows, early.complete) == (3 * SHARD, False)
    assert ActivationReader(stage.path).complete


def test_a_reader_that_begins_while_it_is_freed_takes_nothing_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = StageDir(tmp_path / "cache" / "x-00000000")
    with claim(stage) as held:
        record(stage.path)
        summary, records = finish(stage.path)
        record_done(held, records, summary, 0.0)

    def late(files: Files) -> list[Entry]:
        monkeypatch.undo()
        write_json(stage.evicted, {"paths": ["commits.jsonl"], "evicted_at": 0.0})
        stage.commits.unlink()
        return read_entries(files)

    monkeypatch.setattr(activations, "read_entries", late)
    assert ActivationReader(stage.path).n_rows == 0
    stage.evicted.unlink()
    with pytest.raises(StoreError, match="the commit log is damaged"):
        ActivationReader(stage.path)
