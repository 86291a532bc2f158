"""SIGINT and SIGTERM become a request: finish the step, commit, leave. A second SIGINT insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests(note: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Inside, the yielded function says whether a stop was asked for. Restores the old handlers."""
    asked = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        note(f"{signal.Signals(number).name}: finishing the step and saving")

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # signals reach the main thread only; its owner decides
        return
    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, old in before.items():
            signal.signal(number, old)
