"""Layers through torch.compile, in pieces that no tap can change.

Compiling a whole layer would fuse across the sites, and then the bits of one site would depend on
which others are tapped. So each norm, attention and MLP is a program of its own, with fixed
shapes, and W_O stays outside: every site lies between programs, and hooks run as always. What
can't be compiled is an error and never quietly slower or different.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from sae_cli.errors import ModelError
from sae_cli.lm.anatomy import anatomy, layer_count

_PROGRAMS = 64  # shapes and kinds of layers for which a piece may be compiled

Hook = TypeVar("Hook", bound=Callable[..., Any])


def compile_layers(model: PreTrainedModel, device: torch.device) -> None:
    """Compile the parts of every layer of `model`, which will run on `device`, in place.

    The first forward of each shape then takes seconds to minutes. Sets torch's process-wide
    limits on recompilation: beyond them a piece would run uncompiled, with other bits. Raises
    ModelError without a compiler, or for a layer that is not understood.
    """
    _need_compiler(device)
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    dynamo.recompile_limit = max(dynamo.recompile_limit, _PROGRAMS)
    dynamo.fail_on_recompile_limit_hit = True
    same_choice = {"deterministic": True} if hasattr(inductor, "deterministic") else {}
    for number in range(layer_count(model)):
        parts = anatomy(model, number)
        if parts.projection is not None:
            parts.projection.forward = _outside(parts.projection.forward)
        for part in parts.layer.children():
            part.forward = torch.compile(part.forward, dynamic=False, options={**same_choice})


def never_compiled(hook: Hook, module: nn.Module) -> Hook:
    """`hook` for `module`, left alone by the compiler where a compiled program would call it."""
    if not getattr(module.forward, "_torchdynamo_disable", False):
        return hook  # only the modules that `compile_layers` keeps outside are called by a program
    kept: Hook = _outside(hook)
    return kept


def _outside(function: Any) -> Any:
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call]


def _need_compiler(device: torch.device) -> None:
    if device.type == "cpu":
        named = os.environ.get("CXX")
        if not any(shutil.which(name) for name in ([named] if named else ["g++", "clang++"])):
            raise ModelError(
                "model.compile needs a C++ compiler on this machine, and there is "
                + (f"no {named} (from CXX)" if named else "neither g++ nor clang++"),
                hint="install one, or leave `model.compile` out.",
            )
    elif find_spec("triton") is None:
        raise ModelError(
            f"model.compile on {device} needs the package triton, which is not installed",
            hint="install a torch build that brings it, or leave `model.compile` out.",
        )
