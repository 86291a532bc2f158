"""Work that runs beside the forward: tasks of one strand in order, strands beside each other.

A few threads serve many strands. What is waiting is bounded in bytes, so that a slow disk slows
the caller down instead of filling the memory. The first error stops everything and reaches the
caller with its next call. Numbers don't depend on the threads: each computes with one core.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

Work = Callable[[], None]


class Strand:
    """Tasks that must run one after another."""

    def __init__(self) -> None:
        self.waiting: deque[Work] = deque()
        self.busy = False
        """Whether it is in line for a thread, or has one."""
        self.running = False


class Lanes:
    """The threads. A context manager: leaving it waits for nothing and drops what is waiting."""

    def __init__(self, threads: int | None = None, limit: int = 2**29) -> None:
        """`limit` is the number of bytes that may be under way."""
        _settle_threads()
        self._free = limit
        self._state = threading.Lock()
        self._work = threading.Condition(self._state)
        """Told of each strand that gets in line: one thread need wake."""
        self._change = threading.Condition(self._state)
        """Told of all that a caller may wait for."""
        self._ready: deque[Strand] = deque()
        self._running = 0
        self._error: BaseException | None = None
        self._closed = False
        count = threads or max(4, min(16, os.cpu_count() or 4))
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def reserve(self, size: int) -> None:
        """Wait until `size` bytes may be under way. Raises the first error of any task."""
        with self._state:
            self._change.wait_for(lambda: self._free > 0 or self._error is not None)
            self._raise()
            self._free -= size

    def release(self, size: int) -> None:
        """`size` bytes are no longer under way."""
        with self._state:
            self._free += size
            self._change.notify_all()

    def submit(self, strand: Strand, work: Work) -> None:
        """Run `work` after what `strand` holds already."""
        with self._state:
            self._raise()
            self._push(strand, work)

    def then(self, strand: Strand, work: Work) -> None:
        """As `submit`, from inside a task: never raises."""
        with self._state:
            self._push(strand, work)

    def drain(self) -> None:
        """Wait until nothing is under way. Raises the first error of any task."""
        with self._state:
            self._change.wait_for(
                lambda: not (self._ready or self._running) or self._error is not None
            )
            self._raise()

    def forget(self, strand: Strand) -> None:
        """Drop what `strand` holds; when this returns, nothing of it runs."""
        with self._state:
            strand.waiting.clear()
            if strand in self._ready:
                self._ready.remove(strand)
                strand.busy = False
            self._change.wait_for(lambda: not strand.running)

    def close(self) -> None:
        """End the threads, after the tasks that they are at."""
        with self._state:
            self._closed = True
            self._ready.clear()
            self._work.notify_all()
        for thread in self._threads:
            thread.join()
        _settle_threads()

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _push(self, strand: Strand, work: Work) -> None:
        strand.waiting.append(work)
        if not strand.busy:
            strand.busy = True
            self._ready.append(strand)
            self._work.notify()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        import torch

        torch.set_num_threads(1)  # of this thread, and of those born later
        while True:
            with self._state:
                self._work.wait_for(lambda: self._ready or self._closed)
                if self._closed:
                    return
                strand = self._ready.popleft()
                work = strand.waiting.popleft()
                strand.running = True
                self._running += 1
            error: BaseException | None = None
            try:
                work()
            except BaseException as e:  # noqa: BLE001  it is raised where the caller waits
                error = e
            with self._state:
                strand.running = False
                self._running -= 1
                if error is not None and self._error is None:
                    self._error = error
                if self._error is not None:
                    self._ready.clear()
                elif strand.waiting:
                    self._ready.append(strand)
                else:
                    strand.busy = False
                self._change.notify_all()


def _settle_threads() -> None:
    """Make the caller's number of threads its own, and that of threads born from now on.

    A thread takes the number that was set last anywhere when it first computes. Lanes set it to 1,
    so without this a caller that had not computed before might go on with 1 too, or not: a race
    for its speed, and for its last bits.
    """
    import torch

    torch.set_num_threads(torch.get_num_threads())
