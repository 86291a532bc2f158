"""How a process ends: alone as Python does, one of several before anything can abort it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sae_cli.errors import FAILED

LAST = """
import atexit, os
from sae_cli.run.world import leave
atexit.register(os.abort)
print("said")
leave({code})
"""
TOLD = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.mark.parametrize("code", [0, FAILED])
def test_what_python_does_at_its_end_can_not_undo_one_of_several(code: int) -> None:
    alone = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    several = {**alone, **dict.fromkeys(TOLD, "0"), "WORLD_SIZE": "2"}
    words = [sys.executable, "-c", LAST.format(code=code)]
    ended = subprocess.run(words, env=several, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "said\n", "")
    ended = subprocess.run(words, env=alone, capture_output=True, text=True, check=False)
    assert ended.returncode < 0, "alone, nothing is skipped"
