"""The real command in a workspace of its own, for tests of the executors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from realcommand import Saectl


@pytest.fixture
def saectl(command: Callable[[Path], Saectl], tmp_path: Path) -> Saectl:
    """The command in an empty workspace."""
    return command(tmp_path / "store")
