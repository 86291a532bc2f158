"""Where data go: a place that holds nothing is left for another, and whose data are in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from arrays import ABOUT, plan, record

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import ActivationReader, finish
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.buckets.locate import data_files, data_url
from sae_cli.store.buckets.owner import MARK
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import claim
from sae_cli.store.records.evict import delete_remote, evict
from sae_cli.store.records.ledger import is_done, record_done
from sae_cli.store.records.settle import astray, check_anew, settle


@pytest.fixture
def told() -> list[str]:
    return []


def stage_of(workspace: Path) -> StageDir:
    stage = StageDir(workspace / "cache" / "x-00000000")
    stage.path.mkdir(parents=True)
    return stage


def finished(stage: StageDir) -> None:
    with claim(stage) as held:
        record(stage.path)
        summary, records = finish(stage.path)
        record_done(held, records, summary, 0.0)


def below(url: str) -> str:
    return f"{url}/cache/x-00000000"


def test_a_bucket_that_is_not_there_is_left(tmp_path, s3_url, told, monkeypatch):
    monkeypatch.setenv("SAECTL_PATIENCE", "2")
    stage = stage_of(tmp_path)
    nowhere = {"url": "s3://nowhere-at-all/x/cache/x-00000000"}
    (stage.path / "data.json").write_text(json.dumps(nowhere))
    assert astray(stage.path, s3_url)
    settle(stage.path, s3_url, told.append)
    assert data_url(stage.path) == below(s3_url) and not astray(stage.path, s3_url)
    assert "nowhere-at-all" in told[0] and "no such bucket" in told[0]
    finished(stage)
    settle(stage.path, None, told.append)  # committed data stay
    assert data_url(stage.path) == below(s3_url)


def test_a_place_without_commits_is_emptied_and_left(tmp_path, s3_url, told):
    stage = stage_of(tmp_path)
    settle(stage.path, s3_url, told.append)
    with Recorder(stage.path, plan(), ABOUT):
        pass  # begun, and nothing committed
    there = data_files(stage.path)
    settle(stage.path, f"{s3_url}/other", told.append)
    assert data_url(stage.path) == below(f"{s3_url}/other")
    assert "nothing was committed there" in told[0]
    assert there.get("activations.zarr/zarr.json") is None and there.get(MARK) is None
    settle(stage.path, None, told.append)
    assert data_url(stage.path) is None


def test_a_place_that_does_not_answer_is_not_left_unless_all_is_done_anew(
    tmp_path, s3, s3_url, told, monkeypatch
):
    monkeypatch.setenv("SAECTL_PATIENCE", "0.5")
    stage = stage_of(tmp_path)
    settle(stage.path, s3_url, told.append)
    s3.kill()
    try:
        with pytest.raises(StoreError, match="not known whether activations lie there") as raised:
            settle(stage.path, None, told.append)
        assert "--force" in str(raised.value)
        with pytest.raises(StoreError):
            check_anew(stage.path, s3_url)  # nothing may be deleted: the new place is the same
        left = check_anew(stage.path, None)
    finally:
        s3.start()
    assert left is not None and left.startswith(f"left what may lie at {below(s3_url)}: ")
    assert check_anew(stage.path, None) is None


def test_two_workspaces_in_one_bucket_delete_nothing_of_each_other(tmp_path, s3_url, told):
    mine, yours = stage_of(tmp_path / "mine"), stage_of(tmp_path / "yours")
    settle(mine.path, s3_url, told.append)
    record(mine.path, part=range(2))
    with pytest.raises(StoreError, match=r"is another workspace's .*, and not finished") as raised:
        settle(yours.path, s3_url, told.append)
    assert MARK in str(raised.value) and data_url(yours.path) is None
    finished(mine)
    before = data_files(mine.path)._bucket.tree("").keys()  # type: ignore[attr-defined]

    settle(yours.path, s3_url, told.append)  # a finished one is shared
    assert "it is read, and stays its own" in told[-1]
    finished(yours)
    assert ActivationReader(yours.path).complete
    with pytest.raises(StoreError, match=r"of another workspace .*: they are not deleted"):
        evict(yours, yours.activation_data)
    with pytest.raises(StoreError, match="they are not deleted"):
        delete_remote(yours)
    with pytest.raises(StoreError, match="they are not deleted"):
        check_anew(yours.path, s3_url)
    left = check_anew(yours.path, f"{s3_url}/other")
    assert left is not None and "mine" in left
    assert is_done(yours) and is_done(mine)
    assert data_files(mine.path)._bucket.tree("").keys() == before  # type: ignore[attr-defined]

    assert evict(mine, mine.activation_data) > 0
    assert not data_files(mine.path)._bucket.tree("")  # type: ignore[attr-defined]
