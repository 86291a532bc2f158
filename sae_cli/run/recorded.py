"""What an SAE's own record says it was made of, to be read again: the model, and nothing it names.

A record may come from anybody. Nothing that it names is run, and of the hub only what lies in the
cache under a commit is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_cli.errors import ModelError
from sae_cli.plan.pin import builtin_digest, digest
from sae_cli.spec.models import cached_snapshot, no_model_folder
from sae_cli.spec.stages import ModelSpec

COMMIT = re.compile(r"[0-9a-f]{40}")


def recorded_model(own: Mapping[str, Any], given: str | None) -> ModelSpec | str:
    """The model to load, or why there is none here: `own` is `metadata.saectl` of a cfg.json, and
    `given` a folder that is said to hold the model. Raises ModelError when that is none."""
    if own["model"].get("trust_remote_code"):
        return "its model brings code of its own, and no code that a release names is run"
    recorded = {**own["model"], "trust_remote_code": False}
    if given is not None:
        wrong = no_model_folder(given)
        if wrong is not None:
            raise ModelError(f"--model {given}: {wrong}", hint="give the folder of the model")
        if recorded.get("digest") not in (None, digest(Path(given))):
            return f"{given} is not the model of the record: its digest is another"
        spec = {**recorded, "hf": None, "builtin": None, "revision": None, "path": given}
        return ModelSpec.model_validate(spec)
    if recorded.get("hf") is None and recorded.get("builtin") is None:
        return "the model is a local folder: say where it is with --model PATH"
    if recorded.get("hf") is None:
        if recorded["digest"] != builtin_digest():
            return "the embedded model is another one in this version of saectl"
        return ModelSpec.model_validate(recorded)
    commit = str(recorded.get("revision"))
    if COMMIT.fullmatch(commit) is None:
        return f"its record names no commit of {recorded['hf']}"
    snapshot = cached_snapshot(str(recorded["hf"]), commit)
    if snapshot is None:
        return f"{recorded['hf']} is not on this machine: `hf download` it, or say --model PATH"
    return ModelSpec.model_validate(
        {**recorded, "hf": None, "revision": None, "path": str(snapshot)}
    )
