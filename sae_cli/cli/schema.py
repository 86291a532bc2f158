"""`saectl schema`: the JSON schema of a sweep, so that editors complete and check the YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sae_cli.cli import options as o
from sae_cli.errors import SaectlError


def schema(
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FILE", help="Fail if FILE is not the current schema."),
    ] = None,
    verbose: o.Verbose = False,
) -> None:
    """Print the JSON schema of a sweep file."""
    from sae_cli.spec.sweep import SweepSpec

    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **SweepSpec.model_json_schema(),
    }
    text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    if check is None:
        print(text, end="")
    elif not check.is_file() or check.read_text(encoding="utf-8") != text:
        raise SaectlError(f"{check} is not the current schema", hint=f"saectl schema > {check}")
