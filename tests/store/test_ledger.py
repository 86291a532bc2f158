"""Records: done means done, a failure has a cause, and what was evicted is still known."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from sae_cli.errors import Blocked, StoreError
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records import evict, ledger
from sae_cli.store.records.claim import claim
from sae_cli.store.records.status import Status, state


@pytest.fixture
def stage(tmp_path: Path) -> StageDir:
    return Workspace(tmp_path).stage_dir("train", "tiny.l1", "8c2f3a1b")


def finish(stage: StageDir, weights: bytes = b"weights") -> ledger.Done:
    with claim(stage) as held:
        (stage.path / "sae").mkdir(exist_ok=True)
        (stage.path / "sae" / "w.bin").write_bytes(weights)
        return ledger.record_done(held, [stage.path / "sae" / "w.bin"], {"fvu": 0.25}, 12.5)


def test_a_stage_passes_through_its_states(stage: StageDir) -> None:
    assert state(stage).status is Status.ABSENT
    ledger.open_stage(stage, {"k": 32})
    stage.work.mkdir()
    stage.progress.write_bytes(b"")  # torn by a power cut
    assert state(stage).status is Status.PENDING
    with claim(stage) as held:
        assert state(stage).status is Status.RUNNING
        ledger.record_failed(held, "CUDA out of memory\nTraceback ...")
    failed = state(stage)
    assert failed.status is Status.FAILED
    assert (failed.cause, failed.log) == ("CUDA out of memory", str(stage.log))
    finish(stage)
    assert state(stage).status is Status.DONE
    evict.evict(stage, [stage.path / "sae"])
    assert state(stage).status is Status.EVICTED


def test_the_record_says_what_was_made_and_its_digest_covers_it(stage: StageDir) -> None:
    before = time.time()
    done = finish(stage)
    assert ledger.read_done(stage) == done == state(stage).done
    assert (done.kind, done.slug, done.key) == ("train", "tiny.l1", "8c2f3a1b")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert done.outputs == {"sae/w.bin": {"sha256": digest, "bytes": 7}}
    assert (done.summary, done.seconds) == ({"fvu": 0.25}, 12.5)
    assert before <= done.finished_at <= time.time()
    assert finish(stage, b"weightz").sha256 != done.sha256
    assert finish(stage, b"weights").sha256 == done.sha256


def test_outputs_that_are_missing_or_elsewhere_are_refused(stage: StageDir, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("x")
    with claim(stage) as held:
        for path in (stage.path / "none", outside, stage.path / ".." / ".." / "secret"):
            with pytest.raises(StoreError):
                ledger.record_done(held, [path], {}, 0.0)
    assert not stage.done.exists()


def test_whoever_lost_the_claim_can_not_say_done(stage: StageDir) -> None:
    with claim(stage) as held:
        stage.claim.unlink()
        with pytest.raises(Blocked, match="taken over"):
            ledger.record_done(held, [], {}, 0.0)
    assert not ledger.is_done(stage)


def test_damage_is_found_and_named(stage: StageDir) -> None:
    finish(stage)
    ledger.verify_done(stage)
    (stage.path / "sae" / "w.bin").write_bytes(b"weightZ")
    with pytest.raises(StoreError, match=r"w\.bin does not match"):
        ledger.verify_done(stage)
    record = json.loads(stage.done.read_text())
    record["outputs"]["sae/w.bin"]["bytes"] = 8
    stage.done.write_text(json.dumps(record))
    with pytest.raises(StoreError, match="its own digest"):
        ledger.read_done(stage)


def test_the_same_spec_opens_and_another_one_is_shown_as_a_diff(stage: StageDir) -> None:
    spec = {"kind": "train", "identity": {"lr": 0.1, "sites": ("a", "b"), "seed": 0}}
    ledger.open_stage(stage, spec)
    ledger.open_stage(stage, spec)
    other = {"kind": "train", "identity": {"lr": 0.2, "sites": ("a", "c"), "k": 1}}
    with pytest.raises(StoreError) as raised:
        ledger.open_stage(stage, other)
    said = str(raised.value)
    assert "identity.lr: on disk 0.1, now 0.2" in said
    assert "identity.sites.1: on disk 'b', now 'c'" in said
    assert "identity.seed: on disk 0, now absent" in said
    assert "identity.k: absent on disk, now 1" in said
    assert "kind" not in said


def test_eviction_is_recorded_before_it_happens_and_can_be_finished(
    stage: StageDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = finish(stage)

    def killed(_: Path) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(evict, "_delete", killed)
    with pytest.raises(KeyboardInterrupt):
        evict.evict(stage, [stage.path / "sae"])
    monkeypatch.undo()
    assert (stage.path / "sae" / "w.bin").exists()
    assert state(stage).status is Status.EVICTED and not ledger.is_done(stage)
    assert evict.evict(stage, []) == len(b"weights")
    after = state(stage)
    assert not (stage.path / "sae").exists()
    assert (after.done, after.evicted) == (done, ("sae",))


def test_an_evicted_stage_that_runs_again_is_done_again(stage: StageDir) -> None:
    first = finish(stage)
    evict.evict(stage, [stage.path / "sae"])
    with claim(stage):
        assert state(stage).status is Status.RUNNING
    second = finish(stage)
    assert state(stage).status is Status.DONE and second.sha256 == first.sha256


def test_only_data_of_a_done_stage_that_nobody_works_on_is_evicted(
    stage: StageDir, tmp_path: Path
) -> None:
    ledger.open_stage(stage, {})
    with pytest.raises(StoreError, match="not done"):
        evict.evict(stage, [stage.path / "sae"])
    finish(stage)
    with pytest.raises(StoreError, match=r"done\.json can't be evicted"):
        evict.evict(stage, [stage.done])
    for path in (stage.path, tmp_path):
        with pytest.raises(StoreError, match="not a file or folder inside"):
            evict.evict(stage, [path])
    with claim(stage), pytest.raises(Blocked):
        evict.evict(stage, [stage.path / "sae"])
    assert ledger.is_done(stage)
