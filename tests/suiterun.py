"""The suite of the embedded model, run once in one process: what every executor must end with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from realcommand import Disk, Saectl

SUITE = Path(__file__).parent / "cluster" / "suite.yaml"


@pytest.fixture(scope="session")
def suite(command: Callable[[Path], Saectl], tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """Its workspace. Don't change it."""
    store = tmp_path_factory.mktemp("suite") / "store"
    command(store)("run", SUITE)
    return Disk(store)


def same(there: Disk, suite: Disk) -> None:
    """Both workspaces hold the same results: digests, summaries, and every byte of SAEs."""
    assert there.results().keys() == suite.results().keys()
    assert there.results() == suite.results()
    for kind in ("train", "eval", "release"):
        assert there.artefacts(kind) == suite.artefacts(kind), kind
    there.verify("tokens", "train", "eval", "release")
