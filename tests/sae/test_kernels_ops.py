"""Who gets the kernels, and that everybody else gets the same without Triton."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
import torch
from interpreted import fused as interpreted

from sae_cli.sae.kernels import fused, plain
from sae_cli.sae.kernels.choice import backend_for

CPU = torch.device("cpu")


def test_a_training_on_the_cpu_gets_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert backend_for("auto", CPU).name == backend_for("torch", CPU).name == "torch"


def test_the_interpreter_can_be_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend_for("triton", CPU).name == "triton"
    assert backend_for("auto", CPU).name == backend_for("torch", CPU).name == "torch"


def test_both_kinds_have_the_same_operations_and_arguments() -> None:
    assert sorted(fused.__all__) == sorted(plain.__all__) == sorted(vars(interpreted))
    for name in fused.__all__:
        ours, theirs = (
            [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
            for f in (getattr(fused, name), getattr(plain, name))
        )
        assert ours == theirs


def test_without_triton_the_package_loads_and_gives_plain_torch() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, sae_cli.sae.kernels, sae_cli.sae.trainer\n"
        "from sae_cli.sae.kernels.choice import backend_for\n"
        "print(backend_for('auto', torch.device('cpu')).name)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == "torch"
