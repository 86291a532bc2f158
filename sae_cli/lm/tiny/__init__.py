"""A small language model that lives in the package.

A pipeline that can only be tried with a downloaded model and a GPU is tried by nobody. So one
model comes along: the Qwen3 architecture at 300 thousand parameters, trained for real on a
language of our own, with a chat template, refusals, and the truth about every word it reads.
It answers "does the whole pipeline work?" on a laptop without a network, and it gives features,
circuits and steering something true to be checked against.

`folder()` is an ordinary Hugging Face model folder. The language is in `grammar`, which needs
no torch. The model is re-created by `python -m sae_cli.lm.tiny.train --out DIR`.
"""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """The folder of the shipped model, for `AutoModelForCausalLM.from_pretrained`.

    Raises:
        FileNotFoundError: the package was installed without its data.
    """
    path = Path(__file__).parent / "model"
    if not (path / "model.safetensors").is_file():
        raise FileNotFoundError(f"the embedded model is missing from {path}")
    return path
