"""The sweep that `saectl import` writes: one cell for each SAE, for people to read and edit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sae_cli.cli.import_cells import Placed
from sae_cli.cli.import_model import Target
from sae_cli.errors import UsageError
from sae_cli.spec import yaml as spec_yaml
from sae_cli.spec.load import preset_sweep
from sae_cli.store.atomic import write_bytes

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NO_TEXT = frozenset(("yes", "no", "on", "off", "true", "false", "null", "y", "n"))
STATISTICS_TOKENS = 1_000_000
"""Most tokens that the sites' means and norms are taken from: nothing trains on them."""


def text(name: str, model: Target, cells: Sequence[Placed], root: Path) -> str:
    """The whole file. The same folder gives the same text."""
    contexts = {c.found.said.context for c in cells}
    context = contexts.pop() if len(contexts) == 1 else None
    formats = ", ".join(dict.fromkeys(c.found.format for c in cells))
    many = f"{len(cells)} SAE{'s' * (len(cells) != 1)}"
    shown = "".join(_cell(c) for c in cells)
    return (
        "# yaml-language-server: $schema=sweep.schema.json\n"
        f"# {many} in files of {formats}, as `saectl import` found them. Nothing is trained:\n"
        "# saectl eval reads, checks and judges them, saectl release hands them out.\n"
        f"name: {_plain(name)}\n"
        f"model: {_plain(model.name)}\n{_models(model)}\n"
        "# `tokens` are those from which the sites' means and norms are taken; the metrics are of\n"
        "# the held-out ones, other documents."
        + ("" if context is None else " Contexts are as long as the files say.")
        + f"\n{_dump({'data': _data(model, context)})}\n"
        "matrix:\n  include:\n" + shown
    )


def _models(model: Target) -> str:
    """The model's own entry, where it has one."""
    return "" if model.entry is None else _dump({"models": {model.name: dict(model.entry)}})


def _data(model: Target, context: int | None) -> dict[str, Any]:
    """The text of the sweep that ships for the model, less of it, in the SAEs' contexts where all
    of them say the same."""
    shipped: dict[str, Any] = dict(spec_yaml.load(preset_sweep(model.like)).data.get("data", {}))
    shipped["tokens"] = min(shipped.get("tokens", 400_000), STATISTICS_TOKENS)
    if context is not None:
        shipped["context"] = context
    return shipped


def _cell(c: Placed) -> str:
    found = c.found
    file_layer = found.file_layer if found.file_layer not in (None, c.layer) else None
    fields: dict[str, Any] = {
        "layer": c.layer,
        "site": c.site,
        "out_site": c.out_site,
        "arch": "imported",
        "format": found.format,
        "function": found.function,
        "width": found.width,
        "k": found.k,
        "skip": found.skip or None,
        "file_layer": file_layer,
        "label": c.label,
        "source": c.source,
        "path": str(found.folder.absolute()),
        "digest": c.digest,
    }
    lines = [f"{n}: {_plain(v)}" for n, v in fields.items() if v is not None]
    return "    - " + "\n      ".join(lines) + "\n"


def _plain(value: Any) -> str:
    """A value on one line of YAML. A text that is no plain word is quoted: a digest may look like
    a number."""
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


def _dump(value: Any) -> str:
    said: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return said


def write(path: Path, content: str) -> bool:
    """Put the sweep at `path`; whether it was not there already. Raises UsageError when another
    file is there."""
    data = content.encode()
    if path.exists():
        if path.is_file() and path.read_bytes() == data:
            return False
        raise UsageError(
            f"{path} is there already, and is another sweep",
            hint="--out FILE writes elsewhere, --name NAME names it otherwise",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)
    return True
