"""The training step: resume, schedules, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_cli.errors import StoreError, TrainingError
from sae_cli.sae.relu_l1 import ReluL1
from sae_cli.sae.schedule import learning_rate, peak_rate
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import (
    BatchTopKTrain,
    JumpReluTrain,
    PAnnealTrain,
    ReluL1Train,
    TopKTrain,
)
from sae_cli.spec.train_base import TrainBase

D_IN, ROWS, STEPS = 16, 128, 24
SPECS: dict[str, TrainBase] = {
    "topk": TopKTrain(width=64, k=4, dead_after=10**6, lr=3e-3),
    "topk with dead latents": TopKTrain(width=64, k=2, dead_after=ROWS, auxk=8, lr=3e-3),
    "topk nominated in bfloat16": TopKTrain(width=64, k=4, precision="bfloat16", lr=3e-3),
    "topk, narrow moments, averaged": TopKTrain(
        width=64, k=4, moments_dtype="bfloat16", ema_decay=0.8, lr_schedule="cosine", lr=3e-3
    ),
    "topk, moments in 8 bits": TopKTrain(width=64, k=4, moments_dtype="int8", lr=3e-3),
    "relu_l1": ReluL1Train(arch="relu_l1", width=64, l1=1.0, lr=3e-3),
    "jumprelu": JumpReluTrain(arch="jumprelu", width=64, l0=4.0, lr=3e-3, bandwidth=0.5),
    "jumprelu, sparse products": JumpReluTrain(
        arch="jumprelu", width=64, l0=0.5, lr=3e-3, bandwidth=0.1, threshold_init=2.5, ema_decay=0.9
    ),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def _batch(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(ROWS, D_IN, generator=generator).bfloat16()


def _trainer(spec: TrainBase, steps: int = STEPS) -> Trainer:
    return Trainer(spec, D_IN, torch.linspace(-0.5, 0.5, D_IN), 0.9, "cpu", steps)


def _run(trainer: Trainer, until: int) -> list[dict[str, float]]:
    logs = []
    while trainer.steps < until:
        trainer.step(_batch(trainer.steps))
        logs.append(trainer.log())
    return logs


def _copy(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, scalars = trainer.state_dict()
    return {n: t.clone() for n, t in tensors.items()}, scalars


def _close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype and torch.equal(tensor, b[name]), name


@each_spec
@pytest.mark.parametrize("stop", [0, 1, 11, STEPS - 1])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    spec: TrainBase, stop: int, tmp_path: Path
) -> None:
    whole = _trainer(spec)
    logs = _run(whole, STEPS)
    first = _trainer(spec)
    _run(first, stop)
    tensors, scalars = first.state_dict()
    save_file(tensors, tmp_path / "state.safetensors")
    (tmp_path / "state.json").write_text(json.dumps(scalars, allow_nan=False))

    second = _trainer(spec)
    second.load_state_dict(
        load_file(tmp_path / "state.safetensors"), json.loads((tmp_path / "state.json").read_text())
    )
    assert _run(second, STEPS) == logs[stop:]
    _same(second.state_dict()[0], whole.state_dict()[0])
    assert second.state_dict()[1] == whole.state_dict()[1]
    _same(second.finish().tensors(), whole.finish().tensors())


def test_the_auxiliary_loss_was_at_work_in_one_of_these_runs() -> None:
    for name, at_work in (("topk", False), ("topk with dead latents", True)):
        logs = _run(_trainer(SPECS[name]), STEPS)
        assert any("aux_loss" in log for log in logs) is at_work


@each_spec
def test_the_seed_alone_decides_the_start(spec: TrainBase) -> None:
    torch.manual_seed(1)
    global_state = torch.get_rng_state()
    one = _trainer(spec)
    assert torch.equal(torch.get_rng_state(), global_state), "the global generator was touched"
    torch.manual_seed(2)
    two, other = _trainer(spec), _trainer(spec.model_copy(update={"seed": 1}))
    _same(one.state_dict()[0], two.state_dict()[0])
    assert not torch.equal(one.form.params["dec"], other.form.params["dec"])


@each_spec
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_numbers_that_are_not_finite_end_training_before_they_spread(
    spec: TrainBase, poison: float
) -> None:
    trainer = _trainer(spec)
    _run(trainer, 5)
    before, scalars = _copy(trainer)
    bad = _batch(5)
    bad[17, 3] = poison
    with pytest.raises(TrainingError, match=f"at step 5 of {STEPS}"):
        trainer.step(bad)
    after, scalars_after = trainer.state_dict()
    _same(after, before)
    assert scalars_after == scalars


def test_a_state_of_another_run_is_refused() -> None:
    tensors, scalars = _trainer(SPECS["topk"]).state_dict()
    with pytest.raises(StoreError, match="not one of a relu_l1 SAE"):
        _trainer(SPECS["relu_l1"]).load_state_dict(tensors, scalars)
    wider = _trainer(TopKTrain(width=72, k=4))
    with pytest.raises(StoreError, match=r"differs in .*param\.dec"):
        wider.load_state_dict(tensors, scalars)
    trainer = _trainer(SPECS["topk"])
    _run(trainer, 2)
    tensors, scalars = trainer.state_dict()
    del tensors["adam.dec.exp_avg"]
    with pytest.raises(StoreError, match=r"adam\.dec\.exp_avg"):
        _trainer(SPECS["topk"]).load_state_dict(tensors, scalars)


def test_the_runs_above_use_dense_and_sparse_products() -> None:
    for name, sparse in (("jumprelu", 0.0), ("jumprelu, sparse products", 1.0)):
        logs = _run(_trainer(SPECS[name]), STEPS)
        assert sparse in {log["sparse"] for log in logs}, name


SETTLED = SPECS | {
    "batchtopk": BatchTopKTrain(arch="batchtopk", width=64, k=4, lr=3e-3, ema_decay=0.9),
    "p_anneal": PAnnealTrain(arch="p_anneal", width=64, p_start=0.0, p_steps=20, lr=3e-3),
}
"""And those that carry numbers of their own from step to step."""


@pytest.mark.parametrize("spec", SETTLED.values(), ids=SETTLED.keys())
def test_looked_for_later_a_number_that_is_not_finite_is_reported_with_its_step(
    spec: TrainBase,
) -> None:
    """As on a GPU, where no step waits to look."""
    at_once, later = _trainer(spec), _trainer(spec)
    later.faults.deferred = True
    _run(at_once, 5)
    while later.steps < 5:
        later.step(_batch(later.steps))
    _close(later.state_dict()[0], at_once.state_dict()[0])
    assert later.fault is None
    before = _copy(later)[0]
    later.step(torch.full((ROWS, D_IN), math.nan))
    later.step(_batch(6))
    assert later.fault == 5
    for ask in (later.state_dict, later.log, later.finish, later.verify):
        with pytest.raises(TrainingError, match=f"nan at step 5 of {STEPS}"):
            ask()
    after = later._tensors()
    for tensors in (before, after):
        del tensors["since_fired"]
    _same(after, before)


@each_spec
def test_a_first_batch_that_is_not_finite_changes_nothing(spec: TrainBase) -> None:
    trainer = _trainer(spec.model_copy(update={"decoder_init": "active_subspace"}))
    before, _ = _copy(trainer)
    with pytest.raises(TrainingError, match="at step 0"):
        trainer.step(torch.full((ROWS, D_IN), math.inf))
    _same(trainer.state_dict()[0], before)


def test_a_gradient_that_is_not_finite_ends_training_too() -> None:
    trainer = _trainer(SPECS["relu_l1"])
    _run(trainer, 1)
    with pytest.raises(TrainingError, match="gradient norm is inf at step 1"):
        trainer.step(1e15 * _batch(1))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_falls_from_the_peak_to_zero_over_all_steps(schedule: str) -> None:
    spec = TopKTrain.model_validate(
        {"width": 64, "lr": 1.0, "lr_warmup": 0.1, "lr_schedule": schedule}
    )
    rates = [learning_rate(spec, D_IN, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    left = [(100 - step) / 90 for step in range(10, 100)]
    cosine = [(1 - math.cos(math.pi * share)) / 2 for share in left]
    assert rates[10:] == pytest.approx(left if schedule == "linear" else cosine)


def test_the_average_follows_its_formula_and_is_what_is_finished() -> None:
    spec = SPECS["topk"].model_copy(update={"ema_decay": 0.5})
    plain, averaged = _trainer(SPECS["topk"]), _trainer(spec)
    wanted: dict[str, Tensor] = {}
    for step in range(8):
        for trainer in (plain, averaged):
            trainer.step(_batch(step))
        kept = min(0.5, step / (9 + step))
        for name, param in plain.form.params.items():
            wanted[name] = kept * wanted.get(name, torch.zeros(())) + (1 - kept) * param
    tensors = averaged.state_dict()[0]
    for name, average in wanted.items():
        assert torch.equal(tensors[f"param.{name}"], plain.form.params[name])
        torch.testing.assert_close(tensors[f"average.{name}"], average)
    enc = averaged.finish().W_enc
    own = torch.nn.functional.cosine_similarity(enc, wanted["enc"].T, dim=0)
    torch.testing.assert_close(own, torch.ones(64), rtol=0, atol=1e-5)
    assert not torch.equal(enc, plain.finish().W_enc)


def test_an_averaged_topk_keeps_the_latents_that_its_unit_rows_keep() -> None:
    trainer = _trainer(TopKTrain(width=64, k=4, ema_decay=0.9, lr=0.05, dead_after=10**6))
    for step in range(STEPS):
        trainer.step(_batch(step))
    tensors = trainer.state_dict()[0]
    dec = tensors["average.dec"]
    norms = torch.linalg.vector_norm(dec, dim=1, keepdim=True)
    assert norms.min() < 0.995, "an average of unit rows that turned is shorter"
    x = _batch(STEPS).float()
    z = trainer.prepare(x)
    pre = z @ tensors["average.enc"].T + tensors["average.b_enc"]
    kept = pre.topk(4, dim=1).indices.sort(1).values
    f = trainer.finish().encode(x)
    assert torch.equal(f.topk(4, dim=1).indices.sort(1).values, kept)


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    spec = TopKTrain(width=64, lr=1.0, lr_warmup=0.1, lr_decay=0.2)
    rates = [learning_rate(spec, D_IN, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert set(rates[10:80]) == {1.0}
    assert rates[80:] == pytest.approx([(20 - i) / 20 for i in range(20)])
    flat = TopKTrain(width=64, lr=1.0, lr_warmup=0.0, lr_decay=0.0)
    assert {learning_rate(flat, D_IN, step, 3) for step in range(3)} == {1.0}


def test_the_default_rate_is_that_of_the_width_in_long_runs_and_higher_in_short_ones() -> None:
    spec = TopKTrain(width=65536)
    assert peak_rate(spec, 2560, 100_000) == pytest.approx(1e-4)
    assert peak_rate(spec, 2560, 1000) == pytest.approx(0.064 / math.sqrt(2560))
    assert peak_rate(spec, 64, 10) == pytest.approx(0.1 / 8)
    assert peak_rate(spec.model_copy(update={"lr": 0.5}), 64, 10) == 0.5


def test_a_gradient_above_the_clip_is_shortened_to_it() -> None:
    def moved(clip: float | None) -> tuple[Tensor, float]:
        trainer = _trainer(TopKTrain(width=64, k=4, lr=1e-3, grad_clip=clip))
        trainer.step(_batch(0))
        return trainer.state_dict()[0]["adam.enc.exp_avg"], trainer.log()["grad_norm"]

    free, norm = moved(None)
    clipped, norm_before_clipping = moved(norm / 4)
    assert norm_before_clipping == norm
    torch.testing.assert_close(clipped, free / 4)
    assert torch.equal(moved(norm * 4)[0], free)


@pytest.mark.parametrize("name", ["topk", "topk with dead latents", "jumprelu"])
def test_decoder_rows_keep_unit_norm(name: str) -> None:
    trainer = _trainer(SPECS[name])
    _run(trainer, STEPS)
    norms = trainer.form.params["dec"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(64), rtol=0, atol=1e-6)


def test_a_latent_is_dead_once_it_was_silent_for_so_many_tokens() -> None:
    trainer = _trainer(TopKTrain(width=64, k=4, dead_after=3 * ROWS, auxk_alpha=0.0, lr=1e-9))
    trainer.form.params["b_enc"][5] = -100.0
    shares = [log["dead_fraction"] for log in _run(trainer, 5)]
    assert shares[:2] == [0.0, 0.0]
    assert min(shares[2:]) >= 1 / 64
    assert int(trainer.since_fired[5]) == 5 * ROWS


def test_thresholds_start_where_each_latent_fires_equally_often() -> None:
    spec = SPECS["jumprelu"].model_copy(update={"threshold_init": None, "l0": 2.0})
    trainer = _trainer(spec)
    trainer.step(_batch(0))
    assert trainer.log()["l0"] == pytest.approx(4 * 2.0, rel=0.1)
    assert bool((trainer.since_fired == 0).all())


@pytest.mark.parametrize("far", [0.01, 3.0], ids=["from below", "from above"])
def test_jumprelu_ends_at_its_target_l0(far: float) -> None:
    spec = JumpReluTrain(
        arch="jumprelu", width=64, l0=4.0, lr=1e-2, bandwidth=1.0, threshold_init=far, beta1=0.0
    )
    trainer = _trainer(spec, 400)
    logs = _run(trainer, 400)
    assert abs(logs[0]["l0"] - 4.0) > 2.0
    assert sum(log["l0"] for log in logs[-20:]) / 20 == pytest.approx(4.0, rel=0.05)


@each_spec
def test_what_is_logged_is_said_of_the_last_batch(spec: TrainBase) -> None:
    spec = spec.model_copy(update={"ema_decay": None})
    trainer = _trainer(spec)
    assert trainer.log() == {}
    _run(trainer, 2)
    at_two = _trainer(spec)
    _run(at_two, 2)
    x = _batch(2).float()
    sae = at_two.finish()
    x_hat, f = sae(x), sae.encode(x)
    trainer.step(_batch(2))
    log = trainer.log()
    fvu = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
    assert log["fvu"] == pytest.approx(fvu, rel=1e-4)
    assert log["l0"] == pytest.approx(float((f > 0).sum(1).float().mean()), rel=1e-3)
    assert all(math.isfinite(value) for value in log.values())


def test_left_out_the_l1_coefficient_grows_with_the_norm_of_the_input() -> None:
    spec = SPECS["relu_l1"].model_copy(update={"l1": None})
    trainer = Trainer(spec, 1600, torch.zeros(1600), 1.0, "cpu", 1)
    assert isinstance(trainer.form, ReluL1) and trainer.form.l1 == pytest.approx(5.0)


def test_more_active_latents_than_there_are_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"k = 65 .* there are 64"):
        _trainer(TopKTrain(width=64, k=65))


def test_a_share_of_the_budget_decides_what_is_dead_when_nothing_is_said() -> None:
    assert _trainer(TopKTrain(width=64, num_tokens=2_000)).dead_after == 100
    assert _trainer(TopKTrain(width=64, num_tokens=10**9)).dead_after == 10_000_000


def test_how_often_is_logged_or_saved_changes_nothing() -> None:
    runs = [_trainer(TopKTrain(width=64, log_every=n, checkpoint_every=n)) for n in (1, 100)]
    for trainer in runs:
        _run(trainer, 4)
    _same(runs[0].state_dict()[0], runs[1].state_dict()[0])
