"""Run by test_capture_kills.py: a process that forks `saectl cache WORDS...`, again and again.

    killing.py WORDS...

Imports are done once, before the forks, so that a kill costs a capture and not Python's start.
Takes one order a line and answers each with one: `begin` a process (its pid), `kill PID` and
`wait PID` (its exit code; -9 after SIGKILL). When nobody gives orders any more, all are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import torch  # noqa: F401
import transformers  # noqa: F401

import sae_cli.stages.cache
import sae_cli.stages.tokens  # noqa: F401
from sae_cli.cli.app import main


def begin(words: list[str]) -> int:
    """Fork a process that runs the command; what it says goes to stderr."""
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.argv = ["saectl", "cache", *words]
    code = 1
    with contextlib.suppress(BaseException):
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    os._exit(code)


def end(pid: int) -> int:
    """Wait for a process; how it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve(words: list[str]) -> None:
    running: set[int] = set()
    try:
        for line in sys.stdin:
            order, *rest = line.split()
            if order == "begin":
                pid = begin(words)
                running.add(pid)
                print(pid, flush=True)
                continue
            (pid,) = map(int, rest)
            if order == "kill":
                os.kill(pid, signal.SIGKILL)
            print(end(pid), flush=True)
            running.remove(pid)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1:])
