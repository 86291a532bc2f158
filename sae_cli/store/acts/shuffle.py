"""Kept rows of a finished array in training's order (`order`), as float32 on the device.

Threads read ahead, a pool at a time, chunk by chunk: each row is copied once, from the mapped file
to its slot in the pool, as it is stored (so int8 pools take half the memory); for a GPU the pool
is pinned. A batch is then a plain range of the pool, sent to the device and decoded there. How
many threads read, and whether they read ahead, changes no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.acts import encodings
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.acts.order import Order, Pool


class ShuffledReader:
    """The endless stream of a finished array's kept rows. Every epoch visits each exactly once.

    Holds one pool of about `pool_tokens` rows in memory, as stored; with `prefetch` two, the
    second being filled by `threads` threads while the first is drawn from. Pools that begin at
    position `end` or later are not read ahead. A context manager. Raises StoreError when the array
    is not finished or no row counts.
    """

    def __init__(
        self,
        reader: ActivationReader,
        pool_tokens: int,
        seed: int,
        *,
        device: str | torch.device = "cpu",
        threads: int = 2,
        prefetch: bool = True,
        end: int | None = None,
    ) -> None:
        if not reader.complete:
            raise StoreError(
                f"the array holds {reader.n_rows} of {reader.planned_rows} rows: "
                "the order of training can't be known before it is finished"
            )
        if not reader.kept.any():
            raise StoreError("the array's mask drops every row: there is nothing to train on")
        self._reader, self._end = reader, end
        self._device = torch.device(device)
        self._order = Order(reader.kept, pool_tokens, seed)
        self.rows_per_epoch: int = self._order.rows_per_epoch
        """Kept rows: after this many the stream starts its next epoch."""
        pinned = self._device.type == "cuda"
        memories = 2 if prefetch else 1
        self._free = [_Memory(reader, self._order.most, pinned) for _ in range(memories)]
        self.nbytes: int = sum(memory.nbytes for memory in self._free)
        """Bytes of the pools, all that grows with `pool_tokens`."""
        self._here: _Filling | None = None
        self._next: _Filling | None = None
        self._threads = ThreadPoolExecutor(threads, "saectl-pool")

    def batch(self, position: int, n: int) -> Tensor:
        """Rows `position` to `position + n` of the stream: float32 [n, d] on the device.

        Crosses pools and epochs where they lie. Raises StoreError, naming the chunk, when one
        can't be read; asked again, it tries again.
        """
        assert position >= 0 and n > 0
        out = _room(n, self._reader.d, self._device)
        filled = 0
        while filled < n:
            pool = self._order.at(position + filled)
            low = position + filled - pool.start
            count = min(n - filled, pool.rows - low)
            memory = self._filled(pool)
            stored = memory.send(low, low + count, self._device)
            encodings.decode(stored, self._reader.encoding, out[filled : filled + count])
            filled += count
        return out

    def shard_of(self, row: int) -> int:
        """See `ActivationReader.shard_of`."""
        return self._reader.shard_of(row)

    def close(self) -> None:
        """Stop reading ahead and drop the pools. Twice is harmless."""
        self._leave()
        self._threads.shutdown()
        self._free = []

    def __enter__(self) -> ShuffledReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _filled(self, pool: Pool) -> _Memory:
        """The memory that holds a pool, once it does; the next one is then on its way.

        Valid until another pool is asked for.
        """
        if self._here is None or self._here.pool != pool:
            left, ahead = self._here, self._next
            self._here = self._next = None
            self._drop(left)
            if ahead is None or ahead.pool != pool:
                self._drop(ahead)
                ahead = self._begin(pool)
            self._here = ahead
            following = self._order.after(pool)
            if self._free and (self._end is None or following.start < self._end):
                self._next = self._begin(following)
        try:
            self._here.finish()
        except BaseException:
            self._leave()
            raise
        return self._here.memory

    def _begin(self, pool: Pool) -> _Filling:
        """Set the threads to fill a free memory."""
        memory = self._free.pop()
        slots = self._threads.submit(self._order.slots, pool)
        jobs: list[Future[Any]] = [slots]
        done = 0
        for k in pool.chunks:
            count = int(self._reader.kept[k])
            if count:
                part = slice(done, done + count)
                jobs.append(self._threads.submit(self._load, k, memory, slots, part))
            done += count
        return _Filling(pool, memory, jobs)

    def _leave(self) -> None:
        """Drop all pools."""
        left, self._here, self._next = (self._next, self._here), None, None
        for filling in left:
            self._drop(filling)

    def _drop(self, filling: _Filling | None) -> None:
        """Leave a pool: its memory is free when this returns."""
        if filling is not None:
            filling.stop()
            self._free.append(filling.memory)

    def _load(self, k: int, memory: _Memory, slots: Future[NDArray[np.int64]], part: slice) -> None:
        """Copy the kept rows of chunk `k` to slots `slots[part]`. Runs in any thread."""
        places = slots.result()[part]  # begun before this, so it never waits for this
        try:
            stored = self._reader.raw(k)
            rows = len(stored["acts"])
            if len(places) < rows:
                kept = np.flatnonzero(self._reader.reasons(k) == 0)
                if len(kept) != len(places):
                    raise StoreError(
                        f"the mask keeps {len(kept)} rows, the commit log says {len(places)}"
                    )
                everywhere = np.full(rows, memory.nowhere)
                everywhere[kept] = places
                places = everywhere
        except StoreError as error:
            raise StoreError(f"can't read chunk {k}: {error.what}", hint=error.hint) from error
        memory.put(places, stored)


class _Memory:
    """Room for a pool's rows as they are stored, and one row more, for what nobody wants."""

    def __init__(self, reader: ActivationReader, rows: int, pinned: bool) -> None:
        self.nowhere = rows
        self._disk: dict[str, NDArray[Any]] = {}
        self._tensors: dict[str, Tensor] = {}
        for name, (dtype, shape) in reader.columns.items():
            size = (rows + 1) * int(np.prod(shape)) * dtype.itemsize
            # numpy asks for huge pages, which are faster to fill than torch's small ones.
            if pinned:
                plain = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
            else:
                plain = np.empty(size, np.uint8)
            self._disk[name] = plain.view(dtype).reshape(-1, *shape)
            self._tensors[name] = encodings.from_disk(self._disk[name], name, reader.encoding)
        self._sent: torch.cuda.Event | None = None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._disk.values())

    def put(self, slots: NDArray[np.int64], stored: dict[str, NDArray[Any]]) -> None:
        """Copy rows to slots. From any thread, as long as the slots differ."""
        for name, rows in stored.items():
            self._disk[name][slots] = rows  # numpy's assignment: no way tried was faster

    def send(self, low: int, high: int, device: torch.device) -> dict[str, Tensor]:
        """Slots `low` to `high` on a device: views of this memory, or copies under way."""
        found = {
            name: tensor[low:high].to(device, non_blocking=True)
            for name, tensor in self._tensors.items()
        }
        if device.type == "cuda":
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent.record(torch.cuda.current_stream(device))
        return found

    def settle(self) -> None:
        """Wait until nothing is copied from here any more."""
        if self._sent is not None:
            self._sent.synchronize()
            self._sent = None


class _Filling:
    """A pool on its way into a memory, or there."""

    def __init__(self, pool: Pool, memory: _Memory, jobs: Sequence[Future[Any]]) -> None:
        self.pool, self.memory, self._jobs = pool, memory, jobs

    def finish(self) -> None:
        """Wait until the pool is there. Raises what went wrong on the way."""
        for job in wait(self._jobs, return_when=FIRST_EXCEPTION).done:
            job.result()
        self._jobs = ()

    def stop(self) -> None:
        """Wait until nobody writes to the memory or reads from it; what was not begun never is."""
        for job in reversed(self._jobs):  # the slots last: a job that has begun needs them
            job.cancel()
        wait(self._jobs)
        self._jobs = ()
        self.memory.settle()


def _room(n: int, d: int, device: torch.device) -> Tensor:
    """Memory for a batch."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty((n, d), np.float32))  # huge pages, as in `_Memory`
    return torch.empty(n, d, dtype=torch.float32, device=device)
