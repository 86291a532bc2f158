"""What to tell a user whom the hub turned away: which repository, why, and how to get it.

Torch-free, so that planning can say the same words as loading.
"""

from __future__ import annotations

from sae_cli.errors import DataError, ModelError
from sae_cli.lm.hub import Trouble
from sae_cli.spec.stages import ModelSpec, Source

FOLDER_HINT = "or point to a local folder: `--model /path/to/folder` (`model.path` in the spec)."


def called(spec: ModelSpec) -> str:
    """A model's name in a sentence."""
    if spec.hf is not None:
        return f"model {spec.hf}" + (f" at revision {spec.revision}" if spec.revision else "")
    return "the builtin model" if spec.builtin else f"model folder {spec.path}"


def model_refusal(spec: ModelSpec, trouble: Trouble | None) -> ModelError:
    """What the hub said, and what to do about it."""
    assert spec.hf is not None
    pin = f" --revision {spec.revision}" if spec.revision else ""
    fetch = f"`hf download {spec.hf}{pin}`"
    if trouble == "gated":
        return ModelError(
            f"{called(spec)} is gated: its licence has to be accepted first",
            hint=f"accept it on the model's page, then `hf auth login`; {FOLDER_HINT}",
        )
    if trouble == "missing":
        return ModelError(
            f"{called(spec)} was not found on the hub, or it is private",
            hint=f"check the spelling, or `hf auth login` if it is private; {FOLDER_HINT}",
        )
    if trouble == "revision":
        return ModelError(
            f"model {spec.hf} has no revision {spec.revision}",
            hint="give a commit or a branch of that repository, or leave `model.revision` out.",
        )
    if trouble == "empty":
        return ModelError(
            f"{called(spec)} is not a transformers model: the repository has no config.json",
            hint=f"name a repository in the Hugging Face layout, {FOLDER_HINT}",
        )
    if trouble == "refused":
        return ModelError(
            f"the hub refused to hand out {called(spec)}",
            hint=f"try again, or check `hf auth whoami`; {FOLDER_HINT}",
        )
    return ModelError(
        f"{called(spec)} is not in the local cache, and the Hugging Face hub cannot be reached",
        hint=f"run {fetch} on a machine with network and copy its HF_HOME here, {FOLDER_HINT}",
    )


def dataset_refusal(source: Source, trouble: Trouble) -> DataError:
    """What the hub said of a dataset, and what to do about it."""
    name = f"dataset {source.hf}"
    local = "or give a local folder as `path:`"
    if trouble == "gated":
        return DataError(
            f"{name} is gated: its terms have to be accepted first",
            hint=f"accept them on its page, then `hf auth login`; {local}.",
        )
    if trouble == "missing":
        return DataError(
            f"{name} was not found on the hub, or it is private",
            hint=f"check the spelling, or `hf auth login` if it is private; {local}.",
        )
    if trouble == "revision":
        return DataError(
            f"{name} has no revision {source.revision}",
            hint="give a commit or a branch of it, or leave `revision:` out.",
        )
    if trouble == "offline":
        return DataError(
            f"{name} can't be streamed: the Hugging Face hub cannot be reached",
            hint=f"on a machine with network run `hf download {source.hf} --repo-type dataset "
            "--local-dir corpus`, copy that folder here and give it as `path:`.",
        )
    return DataError(f"the hub refused to hand out {name}", hint=f"try again later, {local}.")
