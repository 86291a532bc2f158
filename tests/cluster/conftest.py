"""Tests of the executors run the real command, in a workspace of its own."""

from __future__ import annotations

from realcommand import processes, saectl

__all__ = ["processes", "saectl"]
