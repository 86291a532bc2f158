"""A writer killed with SIGKILL, at any point, leaves nothing that a finished array could tell."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("crash_driver.py")
POINTS = [
    "writing-acts", "written-acts", "writing-mask", "written-mask", "renamed-acts",
    "renamed-mask", "before-the-log", "torn-log-line", "committed", "before-finish",
]  # fmt: skip


def drive(out: Path, *args: str) -> str:
    command = [sys.executable, str(DRIVER), str(out), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tree(folder: Path) -> dict[str, str]:
    """Every file below `folder`, hidden ones too, with its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("named")
    drive(out, "named")
    return out


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point_it_ends_with_the_same_bytes(named: Path, point: str) -> None:
    whole = tree(named / "acts" / "whole")
    assert len(whole) == 2 * 7 + 2  # two arrays of six chunks and metadata, log, statistics
    assert tree(named / "acts" / point) == whole


def test_killed_at_random_times_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    said = drive(tmp_path, "random", "7")
    assert sum(int(line.split()[3]) for line in said.splitlines()) >= 4, said
    for kind in ("acts", "blocks"):
        whole = tree(tmp_path / kind / "whole")
        for n in range(2):
            assert tree(tmp_path / kind / f"random-{n}") == whole, said
