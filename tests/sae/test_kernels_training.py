"""Whole training steps on the kernels, in Triton's interpreter or on a GPU, against plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from interpreted import DEVICE, interpreter
from torch import Tensor

from sae_cli.errors import TrainingError
from sae_cli.sae import optimizer, ragged, selection, sparse
from sae_cli.sae.backend import TORCH
from sae_cli.sae.fold import scaling
from sae_cli.sae.form import Moment
from sae_cli.sae.kernels import backend, choice
from sae_cli.sae.kernels.backend import TRITON
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import ARCHITECTURES

D, WIDTH, ROWS, STEPS = 16, 24, 8, 3
CASES: dict[str, dict[str, Any]] = {
    "topk": {"arch": "topk", "k": 2, "auxk": 4},
    "batchtopk": {"arch": "batchtopk", "k": 2, "auxk": 4},
    "matryoshka": {"arch": "matryoshka", "k": 2, "auxk": 4},
    "jumprelu": {"arch": "jumprelu", "l0": 0.5, "bandwidth": 0.1, "threshold_init": 2.5},
}
each_case = pytest.mark.parametrize("case", CASES)
CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5}


@pytest.fixture(autouse=True)
def _in_the_interpreter() -> Iterator[None]:
    with interpreter():
        yield


def batch(step: int) -> Tensor:
    return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(step)) + 2.0


def trainer(kernels: str, **spec: Any) -> Trainer:
    fields = {"width": WIDTH, "lr": 0.003, "lr_warmup": 0.0, "lr_decay": 0.0, "kernels": kernels}
    fields |= {"dead_after": ROWS, "batch_size": ROWS, **spec}
    spec_ = ARCHITECTURES[fields["arch"]].model_validate(fields)
    return Trainer(spec_, D, *scaling(torch.full((D,), 2.0), 5.0 * D), DEVICE, STEPS)


def kept(made: Trainer, x: Tensor) -> list[list[int]]:
    """The latents of each row."""
    form, z = made.form, made.prepare(x)
    if made.spec_arch == "topk":
        p = form.params
        found = form.backend.encode_top_k(z, p["enc"], p["b_enc"], 2, bfloat16=False, margin=8)
        return [sorted(row) for row in found.indices.tolist()]
    active, _ = form._keep(z)  # type: ignore[attr-defined]
    n = int(active.number())
    return [active.latents[:n][active.rows[:n] == row].tolist() for row in range(ROWS)]


@each_case
def test_steps_are_those_of_plain_torch(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an epsilon that is large beside rounding: a gradient of 1e-8, all that is left of a row
    whose error lies along it, would otherwise be a whole step in a direction of its own."""
    monkeypatch.setattr(optimizer, "EPS", 1e-5)
    ours, theirs = trainer("triton", **CASES[case]), trainer("torch", **CASES[case])
    assert ours.backend is TRITON and theirs.backend is TORCH
    revived = 0
    for step in range(STEPS):
        x = batch(step)
        if step and "auxk" in CASES[case]:
            assert kept(ours, x) == kept(theirs, x)
        ours.step(x)
        theirs.step(x)
        got, wanted = ours.log(), theirs.log()
        assert got.keys() == wanted.keys()
        revived += "aux_loss" in got
        for name, value in wanted.items():
            assert got[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name
    if "auxk" in CASES[case]:
        assert revived == STEPS - 1
    elif DEVICE == "cpu":
        assert got["sparse"] == 1.0
    found = ours.state_dict()[0]
    for name, tensor in theirs.state_dict()[0].items():
        torch.testing.assert_close(found[name], tensor, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
    norms = ours.form.params["dec"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


@each_case
def test_gradients_are_those_of_plain_torch(case: str) -> None:
    ours, theirs = trainer("triton", **CASES[case]), trainer("torch", **CASES[case])
    z, moment = ours.prepare(batch(0)), Moment(1, STEPS)
    dead = torch.tensor([1, 5, 6, 10, 17, 23], device=DEVICE)
    outcomes = []
    for each in (ours, theirs):
        each.form.begin(z)
        outcomes.append(each.form.gradients(z, moment, dead))
    got, wanted = outcomes
    assert list(got.grads) == list(wanted.grads)
    for name, tensor in wanted.grads.items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(got.grads[name], tensor, rtol=1e-5, atol=1e-6 * scale)
    assert torch.equal(got.fired, wanted.fired) and float(got.l0) == float(wanted.l0)


@pytest.mark.parametrize(("arch", "moments"), [("topk", "bfloat16"), ("batchtopk", "float32")])
def test_a_restart_changes_nothing(arch: str, moments: str) -> None:
    spec = {**CASES[arch], "moments_dtype": moments}
    whole, first, second = (trainer("triton", **spec) for _ in range(3))
    for step in range(STEPS):
        whole.step(batch(step))
    for step in range(2):
        first.step(batch(step))
    tensors, scalars = first.state_dict()
    second.load_state_dict({n: t.clone() for n, t in tensors.items()}, scalars)
    for step in range(2, STEPS):
        second.step(batch(step))
    found = second.state_dict()[0]
    for name, tensor in whole.state_dict()[0].items():
        assert torch.equal(found[name], tensor), name


def test_a_run_may_go_on_with_other_kernels() -> None:
    first, second = trainer("triton", **CASES["topk"]), trainer("torch", **CASES["topk"])
    first.step(batch(0))
    second.load_state_dict(*first.state_dict())
    second.step(batch(1))
    assert second.steps == 2


def test_bfloat16_nominates_the_same_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "has_fast_bfloat16", lambda _: True)
    draw = torch.Generator().manual_seed(3)
    z, enc = (torch.randn(n, D, generator=draw).to(DEVICE) for n in (ROWS, 64))
    given = (z, enc, torch.zeros(64, device=DEVICE), 4)
    ours = TRITON.encode_top_k(*given, bfloat16=True, margin=8)
    theirs = TORCH.encode_top_k(*given, bfloat16=True, margin=8)
    assert torch.equal(ours.indices, theirs.indices)
    torch.testing.assert_close(ours.values, theirs.values)
    assert ours.at_edge is not None and float(ours.at_edge) == float(theirs.at_edge)


def test_a_batch_too_large_for_the_kernel_is_cut_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    form = trainer("triton", **CASES["batchtopk"]).form
    z, p = batch(0).to(DEVICE), form.params
    given = (z, p["enc"], p["b_enc"], 4, torch.zeros((), device=DEVICE))
    padded, cut = TRITON.batch_top_k(*given)
    monkeypatch.setattr(backend, "MOST", ROWS * WIDTH - 1)
    exact, same = TRITON.batch_top_k(*given)
    n = int(padded.number())
    assert float(cut) == float(same) and n == exact.values.numel() == int(exact.number())
    assert torch.equal(padded.latents[:n], exact.latents)


def test_fewer_positive_entries_than_wanted_are_padded() -> None:
    form = trainer("triton", **CASES["batchtopk"]).form
    z, p = batch(0).to(DEVICE), form.params
    low = torch.full_like(p["b_enc"], -6.0)
    active, cut = TRITON.batch_top_k(z, p["enc"], low, 4, torch.zeros((), device=DEVICE))
    number = int((z @ p["enc"].T + low > 0).sum())
    assert int(active.number()) == number < active.values.numel() == 4 * ROWS
    assert float(cut) == 0.0 and int(active.fired().sum()) <= number
    halves = [
        active.within(low, high).decode(p["dec"][low:high]) for low, high in ((0, 9), (9, WIDTH))
    ]
    torch.testing.assert_close(halves[0] + halves[1], active.decode(p["dec"]))


def test_outputs_may_be_wider_than_inputs() -> None:
    draw = torch.Generator().manual_seed(3)
    values = torch.rand(ROWS, 4, generator=draw).to(DEVICE)
    indices = torch.rand(ROWS, WIDTH, generator=draw).argsort(1)[:, :4].to(DEVICE)
    shapes = ((ROWS, D), (ROWS, 20), (WIDTH, 20))
    z, grad, dec = (torch.randn(n, m, generator=draw).to(DEVICE) for n, m in shapes)
    for ours, theirs in (
        (TRITON.Active, sparse.Active),
        (TRITON.Ragged.of, ragged.Ragged.of),
    ):
        got = ours(values, indices, WIDTH).gradients(grad, z, dec)
        for name, tensor in theirs(values, indices, WIDTH).gradients(grad, z, dec).items():
            torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-5)


def test_triton_where_it_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(TrainingError, match="which can't run on cpu") as e:
        choice.backend_for("triton", torch.device("cpu"))
    assert "TRITON_INTERPRET=1" in e.value.what and "auto" in str(e.value.hint)


def test_auto_takes_kernels_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice.backend_for("auto", torch.device("cpu")) is TORCH
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    gpu = torch.device("cuda:0")
    assert choice.backend_for("auto", gpu) is TRITON
    assert choice.backend_for("torch", gpu) is TORCH
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert choice.backend_for("auto", gpu) is TORCH
    with pytest.raises(TrainingError, match=r"compute capability is 7.5, and Triton needs 8.0"):
        choice.backend_for("triton", gpu)
