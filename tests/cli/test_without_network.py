"""A model that is not on this machine, and no network: told at once, with what to type."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sae_cli.errors import FAILED


@pytest.mark.parametrize("verb", ["cache", "run"])
def test_a_model_that_is_not_here_ends_in_how_to_fetch_it(verb, small):
    ended = subprocess.run(
        [sys.executable, "-m", "sae_cli", verb, "--model", "qwen3-4b"],
        cwd=small.spec.parent,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (FAILED, "")
    assert "Qwen/Qwen3-4B" in ended.stderr and "`hf download Qwen/Qwen3-4B`" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (small.spec.parent / "store").exists()
