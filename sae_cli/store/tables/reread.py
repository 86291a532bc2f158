"""Files that are read instead of mapped, for who hashes all of them.

A file that can't be read, or is cut short while somebody looks at its map, kills that process with
a signal (SIGBUS). Read, it is an error that names the file.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained
from sae_cli.store.tables.files import Bytes, LocalFiles


class ReadFiles(LocalFiles):
    """Files in a folder. Threads may share it; each has one buffer, used again and again."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._mine = threading.local()

    def map(self, name: str, offset: int, size: int) -> Bytes:
        """`size` bytes from `offset`: good until this thread asks for the next ones.

        Raises StoreError when the file can't be read, or ends before.
        """
        path, piece = self.root / name, self._buffer(size)
        with explained(path, "read"), path.open("rb", buffering=0) as file:
            done = 0
            while done < size:
                n = os.preadv(file.fileno(), [piece[done:].data], offset + done)
                if n == 0:
                    raise StoreError(f"{path} is cut short: it ends before {offset + size}")
                done += n
        return piece

    def _buffer(self, size: int) -> Bytes:
        buffer: Bytes | None = getattr(self._mine, "buffer", None)
        if buffer is None or buffer.size < size:
            buffer = self._mine.buffer = np.empty(size, np.uint8)
        return buffer[:size]
