"""Claims of other processes, for tests: one that lives, and those that were left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace

from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import Holder, claim, read_holder

HOLD = """
import sys, time
from pathlib import Path
from sae_cli.store.records.claim import claim
from sae_cli.store.layout import StageDir
part = sys.argv[2] if len(sys.argv) > 2 else None
with claim(StageDir(Path(sys.argv[1])), part, heartbeat=0.05) as held:
    held.progress(3, 10)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(stage: StageDir, *part: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(stage), *part]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def forge(stage: StageDir, age: float, **changes: object) -> Holder:
    """A claim left by someone else, last touched `age` seconds ago."""
    with claim(stage):
        holder = read_holder(stage.claim)
    assert holder is not None
    forged = replace(holder, token="f" * 32, **changes)  # type: ignore[arg-type]
    stage.claim.write_text(json.dumps(asdict(forged)))
    then = time.time() - age
    os.utime(stage.claim, (then, then))
    return forged
