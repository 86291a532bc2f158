"""A writer killed with SIGKILL, at any point, leaves nothing that a finished array could tell, and
at no moment anything that a reader could take for data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from arrays import tree

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import ActivationReader

DRIVER = Path(__file__).with_name("crash_driver.py")
ENOUGH = 50
pytestmark = pytest.mark.slow


def begin(out: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, DRIVER, out, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(DRIVER.parents[1])},
        cwd=DRIVER.parents[2],
    )


def drive(out: Path, *args: str) -> int:
    """How many writers the driver killed."""
    driver = begin(out, *args)
    said, trouble = driver.communicate(timeout=300)
    assert driver.returncode == 0, said + trouble
    return int(said)


def look(folder: Path) -> int:
    """Hash every shard that a reader sees now; how many there are."""
    try:
        reader = ActivationReader(folder).table
    except StoreError as error:
        assert "there is no array" in error.what
        return 0
    for s in reader.commits:
        assert list(reader.damages(s)) == []
    return len(reader.commits)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    out = tmp_path_factory.mktemp("named")
    return out, drive(out, "named")


def test_killed_at_every_point_of_the_protocol_it_ends_with_the_same_bytes(
    named: tuple[Path, int],
) -> None:
    out, deaths = named
    folders = sorted(folder for folder in out.iterdir() if folder.name != "whole")
    whole = tree(out / "whole")
    assert len(whole) == 4 * (4 + 1) + 1 + 3  # columns, the group, log, statistics, claim lock
    assert len(folders) == deaths >= ENOUGH
    for folder in folders:
        assert tree(folder) == whole, folder.name


@pytest.mark.parametrize("mode", ["random", "spread"])
def test_killed_at_random_it_ends_with_the_same_bytes_and_no_reader_sees_a_torn_shard(
    named: tuple[Path, int], tmp_path: Path, mode: str
) -> None:
    driver = begin(tmp_path, mode, "7")
    seen = []
    while driver.poll() is None:
        seen.append(look(tmp_path / mode))
    said, trouble = driver.communicate()
    assert driver.returncode == 0, said + trouble
    assert int(said) >= (4 if mode == "random" else 10)
    assert seen == sorted(seen) and len(set(seen)) > 2  # what was there once stays
    assert tree(tmp_path / mode) == tree(named[0] / "whole")


def test_token_blocks_survive_the_same(tmp_path: Path) -> None:
    assert drive(tmp_path, "blocks", "7") >= 3
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
