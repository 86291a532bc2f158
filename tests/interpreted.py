"""Kernels where tests run: on the GPU if there is one, otherwise in Triton's interpreter.

Triton looks at its switch when its own library is loaded, when a kernel is defined and when one is
called. So tests take the kernels from here: the library is loaded anew where somebody loaded it
before, and the switch is on for as long as a call takes and no longer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest
import torch

LIBRARY = ("triton.language.standard", "triton.language.random", "triton.language")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def interpreter() -> Iterator[None]:
    """Triton's interpreter is on, unless there is a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield


def _switched_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        with interpreter():
            return function(*arguments, **named)

    return call


with interpreter():
    pytest.importorskip("triton")
    for name in LIBRARY if DEVICE == "cpu" else ():
        importlib.reload(importlib.import_module(name))
    from sae_cli.sae.kernels import fused as _kernels

fused = SimpleNamespace(**{n: _switched_on(getattr(_kernels, n)) for n in _kernels.__all__})
