"""A `ModelSpec` becomes a tokenizer and a frozen model, or one clear `ModelError` in seconds.

A builtin model and a local folder never touch the network. A hub model is first asked for with a
single short request; without an answer only the local cache is tried. Weights are safetensors:
a pickle is never opened, and a repository's own code runs only where the spec allows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_flash_attn_2_available, logging

from sae_cli.errors import ModelError
from sae_cli.lm.compiled import compile_layers
from sae_cli.lm.hub import Trouble, ask, first_line
from sae_cli.lm.refusal import called, model_refusal
from sae_cli.lm.reinit import draw_anew
from sae_cli.spec.models import cached_snapshot
from sae_cli.spec.stages import ModelSpec


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's own tokenizer. Raises ModelError."""
    tokenizer = _load(AutoTokenizer, spec, {})
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_model(spec: ModelSpec, device: torch.device) -> PreTrainedModel:
    """The model on `device`: eval mode, no gradients, the spec's dtype. Raises ModelError.

    With `device_map: auto` it lies on all GPUs, then in memory, then on disk, as it fits; with
    `device` the CPU, all of it there.
    """
    _need_packages(spec)
    wanted = {
        "dtype": getattr(torch, spec.dtype),
        "attn_implementation": spec.attn_implementation,
        "use_safetensors": True,
    }
    if spec.device_map is not None:
        wanted["device_map"] = "cpu" if device.type == "cpu" else spec.device_map
    model = _load(AutoModelForCausalLM, spec, wanted)
    assert isinstance(model, PreTrainedModel)
    model.requires_grad_(False).eval()
    if spec.reinit is not None:
        draw_anew(model, spec.reinit)
    if spec.device_map is not None:
        return model
    try:
        moved: Any = model.to(device)
    except torch.OutOfMemoryError as error:
        size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
        raise ModelError(
            f"{called(spec)} ({size:.1f} GiB of weights) does not fit on {device}",
            hint="use a larger device, `model.device_map: auto`, `model.dtype: bfloat16`, or "
            "`--device cpu`.",
        ) from error
    assert isinstance(moved, PreTrainedModel)
    if spec.compile:
        compile_layers(moved, device)
    return moved


def _need_packages(spec: ModelSpec) -> None:
    """Raise ModelError at once, before gigabytes are read, for a package that the spec needs."""
    if spec.device_map is not None and find_spec("accelerate") is None:
        raise ModelError(
            "model.device_map needs the package accelerate, which is not installed",
            hint="`pip install accelerate`, or leave `model.device_map` out.",
        )
    if spec.attn_implementation != "flash_attention_2":
        return
    if not is_flash_attn_2_available():
        raise ModelError(
            "model.attn_implementation: flash_attention_2 needs an NVIDIA GPU and the package "
            "flash-attn, and they are not both here",
            hint="`pip install flash-attn`, or leave `model.attn_implementation` at sdpa.",
        )
    if spec.dtype == "float32":
        raise ModelError(
            "model.attn_implementation: flash_attention_2 has no float32",
            hint="set `model.dtype: bfloat16`, or leave `model.attn_implementation` at sdpa.",
        )


def _load(auto: Any, spec: ModelSpec, wanted: dict[str, Any]) -> Any:
    wanted = {**wanted, "trust_remote_code": spec.trust_remote_code}
    trouble: Trouble | None = None
    if spec.hf is None:
        where: str | Path = _folder(spec)
        wanted["local_files_only"] = True
    else:
        where = spec.hf
        wanted["revision"] = spec.revision or "main"
        if spec.revision and cached_snapshot(spec.hf, spec.revision):
            with suppress(OSError), _no_bars():  # an incomplete snapshot is completed below
                return auto.from_pretrained(where, **wanted, local_files_only=True)
        trouble = ask(spec.hf, "model", spec.revision)
        if trouble not in (None, "offline"):
            raise model_refusal(spec, trouble)
        wanted["local_files_only"] = trouble == "offline"
    try:
        with _no_bars():
            return auto.from_pretrained(where, **wanted)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise _explained(spec, error, trouble) from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """Loading is quick beside what follows; its bars would break into ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _folder(spec: ModelSpec) -> Path:
    if spec.builtin is not None:
        from sae_cli.lm import tiny

        try:
            return Path(tiny.folder())
        except FileNotFoundError as error:
            raise ModelError(
                "the builtin model is not there: saectl was installed without its data",
                hint="install saectl anew.",
            ) from error
    assert spec.path is not None
    folder = Path(spec.path).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"there is no model folder {spec.path}",
            hint="give a folder that holds config.json, safetensors weights and a tokenizer.",
        )
    if not (folder / "config.json").is_file():
        found = sorted(p.name for p in folder.iterdir())
        said = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "nothing"
        raise ModelError(
            f"{spec.path} is not a model folder: it has no config.json (it holds {said})",
            hint="give a folder in the Hugging Face layout, as `save_pretrained` writes it.",
        )
    return folder


def _explained(spec: ModelSpec, error: Exception, trouble: Trouble | None) -> ModelError:
    """The user's view of what transformers raised."""
    text = str(error)
    if "trust_remote_code" in text:
        return ModelError(
            f"{called(spec)} brings its own Python code, which is not run unless you say so",
            hint="read that code, then set `model.trust_remote_code: true`.",
        )
    if "attention implementation" in text:
        return ModelError(
            f"{called(spec)} does not know attn_implementation {spec.attn_implementation}",
            hint="set `model.attn_implementation: eager`.",
        )
    if isinstance(error, ImportError):
        return ModelError(
            f"{called(spec)} needs a package that is not installed: {first_line(error)}",
            hint=f"install it, or change `model.attn_implementation` ({spec.attn_implementation}).",
        )
    if trouble == "offline" and isinstance(error, OSError):
        return model_refusal(spec, "offline")
    if "safetensors" in text and isinstance(error, OSError):
        return ModelError(
            f"{called(spec)} has no safetensors weights; pickled weights are never opened",
            hint="convert it once with transformers: `save_pretrained(folder)` writes safetensors.",
        )
    return ModelError(
        f"{called(spec)} could not be loaded: {type(error).__name__}: {first_line(error)}",
        hint="check that the folder is complete, and that transformers knows this architecture.",
    )
