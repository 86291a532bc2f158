"""`train.kernels`: the SAE's record says what made it, its key does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training import bench, train_spec

from sae_cli.spec.base import identity
from sae_cli.stages.train import run


def test_it_is_no_part_of_the_key() -> None:
    assert identity(train_spec(k=4, kernels="triton")) == identity(train_spec(k=4))


def test_record_and_folder_say_which_were_used(tmp_path: Path) -> None:
    place = bench(tmp_path)
    run([place.task("sae", k=4, num_tokens=240)])
    assert place.finished["sae"]["kernels"] == "torch"
    cfg = json.loads((tmp_path / "train" / "sae" / "cfg.json").read_text())
    assert '"kernels": "torch"' in json.dumps(cfg)


def test_kernels_that_cannot_run_fail_their_sae_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    place = bench(tmp_path)
    wanted = {"kernels": {"kernels": "triton"}, "plain": {}}
    run([place.task(name, k=4, num_tokens=240, **spec) for name, spec in wanted.items()])
    assert place.finished.keys() == {"plain"} and place.failed.keys() == {"kernels"}
    assert "can't run on cpu: kernels need a CUDA device" in place.failed["kernels"]
    assert "train.kernels: auto" in place.failed["kernels"]
