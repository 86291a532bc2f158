"""From a model's name to its `ModelSpec` and sizes, without torch and without network."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from sae_cli.spec.presets import PRESETS, ModelFacts
from sae_cli.spec.problems import Loc, Problem, SpecProblems, closest
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.sweep import SweepSpec

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def resolve(name: str, sweep: SweepSpec, loc: Loc) -> ModelSpec:
    """The model called `name`: one of the sweep's own, a preset, a local folder, or a hub id.

    Raises SpecProblems at `loc` if it is none of them.
    """
    if name in sweep.models:
        own = sweep.models[name]
        if own.path is not None and (wrong := no_model_folder(own.path)):
            raise SpecProblems([Problem(("models", name, "path"), wrong)])
        return own if own.reinit is None else _like_its_preset(own)
    if name in PRESETS:
        return PRESETS[name].model
    path = local(name)
    if name and (path.is_dir() or name.startswith((".", "~", "/"))):
        if wrong := no_model_folder(name):
            raise SpecProblems([Problem(loc, wrong)])
        return ModelSpec(path=str(path.resolve()))
    if _HUB_ID.match(name):
        return ModelSpec(hf=name)
    known = [*sweep.models, *PRESETS]
    raise SpecProblems(
        [
            Problem(
                loc,
                f"'{name}' is no preset ({', '.join(PRESETS)}), no entry of models, no folder, "
                "and no hub id (org/name)",
                closest(name, known),
            )
        ]
    )


def _like_its_preset(own: ModelSpec) -> ModelSpec:
    """A control differs from the model that it stands beside in what is said of it alone."""
    for preset in PRESETS.values():
        if (own.hf, own.builtin) == (preset.model.hf, preset.model.builtin) and not own.path:
            given = {name: getattr(own, name) for name in own.model_fields_set}
            return ModelSpec.model_validate(preset.model.model_dump() | given)
    return own


def local(text: str) -> Path:
    """A path as a user wrote it, with `~` resolved where it can be."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:  # `~name` of nobody
        return path


def missing(text: str, what: str) -> str:
    """That nothing is at a path, and where a relative one starts."""
    begins = "" if local(text).is_absolute() else " (a relative path starts where saectl runs)"
    return f"there is no {what} {text}{begins}"


def no_model_folder(text: str) -> str | None:
    """Why `text` can't be the folder of a model; None when it can."""
    if not local(text).is_dir():
        return missing(text, "folder")
    if not (local(text) / "config.json").is_file():
        return f"{text} is a folder without config.json, so not a Hugging Face model"
    return None


def facts(model: ModelSpec) -> ModelFacts | None:
    """A model's sizes: from the presets, its folder, or the hub's local cache; else None."""
    for preset in PRESETS.values():
        if (model.hf, model.builtin) == (preset.model.hf, preset.model.builtin) and not model.path:
            return preset.facts
    config = None
    if model.path is not None:
        config = local(model.path) / "config.json"
    elif model.hf is not None:
        snapshot = cached_snapshot(model.hf, model.revision)
        config = snapshot / "config.json" if snapshot else None
    if config is None or not config.is_file():
        return None
    try:
        read = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return ModelFacts.from_config(read) if isinstance(read, dict) else None


def at_hand(model: ModelSpec) -> bool:
    """Whether a model can be loaded without asking anybody."""
    if model.hf is None:
        return True
    return model.revision is not None and cached_snapshot(model.hf, model.revision) is not None


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """Where the hub's local cache holds `repo` (at `revision`, default main), or None."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{caches}/huggingface")
    hub = local(os.environ.get("HF_HUB_CACHE", f"{home}/hub"))
    folder = hub / ("models--" + repo.replace("/", "--"))
    ref = folder / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    if commit is None or not (folder / "snapshots" / commit).is_dir():
        return None
    return folder / "snapshots" / commit
