"""A sweep from a few lines of YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sae_cli.spec.load import Sweep, load


@pytest.fixture
def sweep(tmp_path: Path, clean_home: Path) -> Callable[..., Sweep]:
    """`sweep(text, sets, model)`: the checked sweep; raises what `load` raises."""

    def make(text: str, sets: tuple[str, ...] = (), model: str | None = None) -> Sweep:
        file = tmp_path / "sweep.yaml"
        file.write_text(text, encoding="utf-8")
        return load(file, sets, model)

    return make
