"""The sweeps that tests from end to end share: a small one, and the demo."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from realcommand import SMALL, Disk, Saectl, processes, saectl

__all__ = ["processes", "saectl"]


def rows(text: str) -> list[list[str]]:
    """The rows of the table that a run ends with: model, site, layer, architecture, width, ..."""
    words = [line.split() for line in text.splitlines()]
    return [w for w in words if w and w[0] == "tiny" and len(w) > 10]


@pytest.fixture(scope="session")
def table() -> Callable[[str], list[list[str]]]:
    """table(text): the rows of the results that a run printed."""
    return rows


@pytest.fixture(scope="session")
def cold(
    command: Callable[[Path], Saectl], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A workspace in which the small sweep ran once, and what that run said. Don't change it."""
    store = tmp_path_factory.mktemp("cold") / "store"
    return store, command(store)("run", SMALL)


@pytest.fixture(scope="session")
def finished(cold: tuple[Path, subprocess.CompletedProcess[str]]) -> Disk:
    """The workspace of `cold`. Don't change it."""
    return Disk(cold[0])


@pytest.fixture
def warm(saectl: Saectl, finished: Disk) -> Saectl:
    """The command in a copy of the finished workspace."""
    shutil.copytree(finished.root, saectl.store, symlinks=True)
    return saectl


@pytest.fixture(scope="session")
def demo(command: Callable[[Path], Saectl], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the run of the demo said in JSON, and its workspace as `store`."""
    store = tmp_path_factory.mktemp("demo") / "store"
    return {"store": store, **command(store).sweep("run", "sweeps/tiny.yaml")}
