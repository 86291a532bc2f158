"""Numbers that are not finite end the SAE that meets them, by name, and no other."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training import CHUNK, Bench, bench

from sae_cli.errors import StoreError
from sae_cli.sae.trainer import Trainer
from sae_cli.stages import grid_member
from sae_cli.stages.train import run
from sae_cli.store.acts.array import ActivationReader

BAD_ROW = 5 * CHUNK + 18
"""In shard 1."""


@pytest.fixture
def place(tmp_path: Path) -> Bench:
    return bench(tmp_path)


def position_of(place: Bench, row: int) -> int:
    """Where in the order of seed 0 a row is met."""
    course = grid_member.Course(ActivationReader(place.array), 400, 0)
    kept = int(ActivationReader(place.array).kept.sum())
    return next(p for p in range(kept) if course.row(p) == row)


def checkpoint(place: Bench, name: str) -> dict[str, torch.Tensor]:
    return load_file(place.root / "train" / name / "work" / "state.safetensors")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_activation_is_named_and_ends_those_that_meet_it(place, monkeypatch, value):
    """`short` has all its tokens before the row comes; `long` and `wide` meet it."""
    raw = ActivationReader.raw

    def broken(self: ActivationReader, k: int) -> dict[str, np.ndarray[Any, Any]]:
        found = raw(self, k)
        if k == BAD_ROW // CHUNK:
            found["acts"] = found["acts"].copy()
            found["acts"][BAD_ROW % CHUNK, 3] = value
        return found

    monkeypatch.setattr(ActivationReader, "raw", broken)
    met = position_of(place, BAD_ROW)
    assert met > 480, "another row would be met later"
    step = met // 120
    tasks = [
        place.task("long", k=4),
        place.task("short", k=4, num_tokens=met // 120 * 120),
        place.task("wide", arch="relu_l1", batch_size=240),
    ]
    run(tasks)
    where = f"row {BAD_ROW} (shard 1) of tiny.L1.mlp_out-0a0b0c0d holds NaN or Inf"
    assert place.finished.keys() == {"short"} and place.failed.keys() == {"long", "wide"}
    assert f"long: {where}: met at step {step} of 20" in place.failed["long"]
    assert f"wide: {where}: met at step {step // 2} of 10" in place.failed["wide"]
    for name in ("long", "wide"):
        assert all(t.isfinite().all() for t in checkpoint(place, name).values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_row_kept_for_calibration_is_named_and_ends_who_calibrates(
    place, monkeypatch, value
):
    raw, reader = ActivationReader.raw, ActivationReader(place.array)
    last = int(np.flatnonzero(reader.kept)[-1])
    bad = int(np.flatnonzero(reader.reasons(last) == 0)[-1])

    def broken(self: ActivationReader, k: int) -> dict[str, np.ndarray[Any, Any]]:
        found = raw(self, k)
        if k == last:
            found["acts"] = found["acts"].copy()
            found["acts"][bad, 3] = value
        return found

    monkeypatch.setattr(ActivationReader, "raw", broken)
    few = position_of(place, last * CHUNK + bad) // 120 * 120  # `other` never meets it
    run([place.task("batch", arch="batchtopk", k=4), place.task("other", k=4, num_tokens=few)])
    assert place.failed.keys() == {"batch"} and "other" in place.finished
    assert f"row {last * CHUNK + bad} (shard " in place.failed["batch"]
    assert "met in calibration" in place.failed["batch"]


@pytest.mark.parametrize("what", ["loss", "dec"])
def test_a_loss_or_a_gradient_that_is_not_finite_ends_one_sae(place, tmp_path, monkeypatch, what):
    run([place.task("well", k=4)])
    alone = place.sha("well")

    def broken(form: Any) -> Any:
        own = form.gradients

        def gradients(z: torch.Tensor, moment: Any, dead: Any) -> Any:
            outcome = own(z, moment, dead)
            if moment.step == 9:
                (outcome.loss if what == "loss" else outcome.grads[what]).fill_(math.nan)
            return outcome

        return gradients

    init = Trainer.__init__

    def made(self: Trainer, spec: Any, *given: Any) -> None:
        init(self, spec, *given)
        if spec.k == 5:
            self.form.gradients = broken(self.form)

    monkeypatch.setattr(Trainer, "__init__", made)
    run([place.task("ill", k=5), place.task("well", k=4)])
    assert re.match(r"ill: (loss|gradient norm) is nan at step 9 of 20", place.failed["ill"])
    assert place.sha("well") == alone and "ill" not in place.finished
    state = checkpoint(place, "ill")
    assert all(t.isfinite().all() for t in state.values())
    assert int(state["adam.dec.step"]) == 8, "the checkpoint before the fault"


def test_weights_that_a_step_made_infinite_are_not_checkpointed(place):
    """A finite gradient times an absurd rate: found when the state would be written."""
    run([place.task("ill", k=4, lr=1e39, checkpoint_every=1), place.task("well", k=4)])
    assert re.match(r"ill: (param|adam)\.\S+ is not finite after step \d", place.failed["ill"])
    assert place.finished.keys() == {"well"}
    assert not (place.root / "train" / "ill" / "work" / "state.safetensors").exists()


def test_an_sae_that_cannot_be_begun_ends_alone(place):
    """k above the width, and a checkpoint of another kind of SAE."""
    run([place.task("much", k=64), place.task("well", k=4)])
    assert place.finished.keys() == {"well"} and "k = 64" in place.failed["much"]
    state = place.root / "train" / "other" / "work" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"nothing")
    run([place.task("other", k=4), place.task("next", k=4)])
    assert place.finished.keys() == {"well", "next"}
    assert "is no training state" in place.failed["other"]


def damaged(header: Any, kept: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + kept


DAMAGED = {
    "empty": b"",
    "zeros": bytes(4096),
    "a header without an end": (2**40).to_bytes(8, "little") + b"{",
    "no state": damaged({}),
    "a state that is no JSON": damaged({"__metadata__": {"state": "{"}}),
    "a state that is a list": damaged({"__metadata__": {"state": "[1]"}}),
    "a state without an end": damaged({"__metadata__": {"state": "[" * 10**5}}),
    "a step that is a text": damaged({"__metadata__": {"state": '{"step": "4", "tokens": 480}'}}),
    "no tensors": damaged(
        {"__metadata__": {"state": '{"arch": "topk", "step": 4, "tokens": 480}'}}
    ),
    "tensors beyond the end": damaged(
        {
            "__metadata__": {"state": "{}"},
            "param.enc": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        },
        bytes(8),
    ),
    "an unknown format": damaged(
        {
            "__metadata__": {"state": "{}"},
            "param.enc": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]},
        },
        bytes(4),
    ),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_checkpoint_ends_its_own_sae_and_says_where_it_is(place, damage):
    state = place.root / "train" / "ill" / "work" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(damage)
    few = {"k": 4, "num_tokens": 240}
    run([place.task("first", **few), place.task("ill", **few), place.task("last", **few)])
    assert place.finished.keys() == {"first", "last"} and place.failed.keys() == {"ill"}
    said = place.failed["ill"]
    assert str(state) in said and ("damaged" in said or "differs in" in said)
    assert "delete " in said and "to train" in said and "from the start" in said
    assert state.read_bytes() == damage, "it is the user who deletes it"


def test_an_array_that_cannot_be_read_ends_the_grid_and_keeps_the_checkpoints(place, monkeypatch):
    raw = ActivationReader.raw

    def gone(self: ActivationReader, k: int) -> Any:
        if k == BAD_ROW // CHUNK:
            raise StoreError("the file is torn")
        return raw(self, k)

    with monkeypatch.context() as patch:
        patch.setattr(ActivationReader, "raw", gone)
        with pytest.raises(StoreError, match="can't read chunk 5: the file is torn"):
            run([place.task("a", k=4), place.task("b", k=3)])
    assert not place.finished
    run([place.task("a", k=4), place.task("b", k=3)])
    run([place.task("fresh", k=4)])
    assert (
        place.sha("a")["sae_weights.safetensors"] == place.sha("fresh")["sae_weights.safetensors"]
    )
