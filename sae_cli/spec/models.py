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
        return sweep.models[name]
    if name in PRESETS:
        return PRESETS[name].model
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SpecProblems(
                [
                    Problem(
                        loc, f"{name} is a folder without config.json, so not a Hugging Face model"
                    )
                ]
            )
        return ModelSpec(path=str(path.resolve()))
    if name.startswith((".", "~", "/")):
        raise SpecProblems([Problem(loc, f"there is no model folder {name}")])
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


def facts(model: ModelSpec) -> ModelFacts | None:
    """A model's sizes: from the presets, its folder, or the hub's local cache; else None."""
    for preset in PRESETS.values():
        if (model.hf, model.builtin) == (preset.model.hf, preset.model.builtin) and not model.path:
            return preset.facts
    config = None
    if model.path is not None:
        config = Path(model.path).expanduser() / "config.json"
    elif model.hf is not None:
        snapshot = cached_snapshot(model.hf, model.revision)
        config = snapshot / "config.json" if snapshot else None
    if config is None or not config.is_file():
        return None
    try:
        return ModelFacts.from_config(json.loads(config.read_text(encoding="utf-8")))
    except ValueError:
        return None


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """Where the hub's local cache holds `repo` (at `revision`, default main), or None."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    folder = hub / ("models--" + repo.replace("/", "--"))
    ref = folder / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    if commit is None or not (folder / "snapshots" / commit).is_dir():
        return None
    return folder / "snapshots" / commit
