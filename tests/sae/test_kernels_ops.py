"""Who gets the kernels, and that everybody else gets the same without Triton."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
import torch
from interpreted import fused as interpreted

from sae_cli.sae.kernels import fused, plain, usable
from sae_cli.sae.kernels.ops import Ops, ops_for

NAMES = sorted(name for name in vars(Ops) if not name.startswith("_"))


def test_a_tensor_on_the_cpu_gets_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not usable(torch.ones(1))
    assert ops_for(torch.ones(1)) is plain


def test_the_interpreter_can_be_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert usable(torch.ones(1)) and usable(torch.ones(1, dtype=torch.bfloat16))
    assert ops_for(torch.ones(1)) is fused


def test_float64_is_not_for_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert ops_for(torch.ones(1, dtype=torch.float64)) is plain


def test_both_kinds_have_the_same_operations_and_arguments() -> None:
    assert sorted(fused.__all__) == sorted(plain.__all__) == NAMES == sorted(vars(interpreted))
    for name in NAMES:
        ours, theirs = (
            [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
            for f in (getattr(fused, name), getattr(plain, name))
        )
        wanted = list(inspect.signature(getattr(Ops, name)).parameters.values())[1:]
        assert ours == theirs == [(p.name, p.kind, p.default) for p in wanted]


def test_without_triton_the_package_loads_and_gives_plain_torch() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, sae_cli.sae.kernels, sae_cli.sae.trainer\n"
        "from sae_cli.sae.kernels.ops import ops_for\n"
        "print(ops_for(torch.ones(1)).__name__)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == "sae_cli.sae.kernels.plain"
