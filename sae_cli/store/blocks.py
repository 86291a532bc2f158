"""Token blocks on disk: what the model reads, where each token came from, and whether it counts.

One table per split (`train.zarr`, `heldout.zarr`), each with `tokens` int32, `document` int64 and
`position` int32 (within the document or context, as the packer says) and `reasons` uint8 (0
counts), all [n_blocks, context]. Both splits share one log, so its latest line holds the packer's
state for both.

Held-out documents are another table, not a slice: nothing here can hand one out as training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.errors import StoreError
from sae_cli.store.tables.chunks import METADATA, Array, Column, Table, encoded
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import JOINED, read_entries
from sae_cli.store.tables.reader import TableReader
from sae_cli.store.tables.writer import OnPoint, TableWriter, tidy_metadata

LOG = "commits"
_DTYPES = {"tokens": "<i4", "document": "<i8", "position": "<i4", "reasons": "|u1"}


class BlockWriter:
    """Writes the blocks of each split, chunk after chunk, going on where a killed one stood.

    `blocks` maps a split to its number of blocks. A context manager; holds the folder's writer
    lock until closed. Raises StoreError as `writer.TableWriter` does.
    """

    def __init__(
        self,
        dir: Path,
        context: int,
        blocks: Mapping[str, int],
        chunk_blocks: int,
        on_point: OnPoint | None = None,
    ) -> None:
        assert context > 0 and chunk_blocks > 0
        columns = tuple(
            Column(name, dtype, (context,), ("place",)) for name, dtype in _DTYPES.items()
        )
        sizes = {split: min(chunk_blocks, max(n, 1)) for split, n in blocks.items()}
        tables = [
            Table(split, n, sizes[split], sizes[split], columns) for split, n in blocks.items()
        ]
        self._dir = dir
        files = LocalFiles(dir)
        self._tables = TableWriter(files, tables, files.log(LOG), (), on_point)
        try:
            for table in tables:
                files.put(f"{table.folder}/{METADATA}", encoded(table.group({})))
                self._tables.tidy(table.name, range(table.n_shards))
                tidy_metadata(files, table)
        except StoreError:
            self.close()
            raise

    def last_state(self) -> Any:
        """The `state` given with the latest commit of any split, or None."""
        last = self._tables.last_entry
        return None if last is None else last["state"]

    def next_chunk(self, split: str) -> int:
        """The first chunk of `split` that is not committed; `n_chunks(split)` when all are."""
        return len(self._tables.committed[split])

    def n_chunks(self, split: str) -> int:
        """Chunks in the finished split."""
        return self._tables.tables[split].n_shards

    def rows_in(self, split: str, k: int) -> int:
        """Blocks that chunk `k` must bring: `chunk_blocks`, fewer in the last."""
        return self._tables.tables[split].rows_in(k)

    def complete(self, split: str) -> bool:
        """Whether every planned block of `split` is committed."""
        return self.next_chunk(split) == self.n_chunks(split)

    def write(
        self,
        split: str,
        tokens: NDArray[np.int32],
        document: NDArray[np.int64],
        position: NDArray[np.int32],
        reasons: NDArray[np.uint8],
        state: Any = None,
    ) -> None:
        """Commit the next chunk of `split`; all arrays [blocks, context], `state` plain JSON.

        When this returns, the chunk survives a power cut. Raises StoreError for wrong shapes or
        dtypes, or a split that is complete.
        """
        values: dict[str, Array] = {
            "tokens": tokens,
            "document": document,
            "position": position,
            "reasons": reasons,
        }
        self._tables.write(split, self.next_chunk(split), values, {"state": state})

    def finish(self) -> dict[str, Any]:
        """Blocks per split. Raises StoreError when chunks are missing."""
        for split, table in self._tables.tables.items():
            if not self.complete(split):
                raise StoreError(
                    f"{self._dir / table.folder} holds {self.next_chunk(split)} of "
                    f"{table.n_shards} chunks: incomplete"
                )
        return {"blocks": {name: table.rows for name, table in self._tables.tables.items()}}

    def records(self) -> list[Path]:
        """The small files whose digests cover all blocks (the log names every chunk's)."""
        names = [JOINED]
        for table in self._tables.tables.values():
            names.append(f"{table.folder}/{METADATA}")
            names += [f"{table.array(column)}/{METADATA}" for column in table.columns]
        return [self._dir / name for name in names]

    def close(self) -> None:
        """Let another writer in. Closing twice is harmless."""
        self._tables.close()

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlockReader:
    """Reads the committed blocks of every split. Raises StoreError when there are none."""

    def __init__(self, dir: Path) -> None:
        files = LocalFiles(dir)
        found = sorted(path.parent.name.removesuffix(".zarr") for path in dir.glob("*.zarr/tokens"))
        if not found:
            raise StoreError(f"there are no token blocks in {dir}")
        entries = read_entries(files)
        self._splits = {
            split: TableReader(files, entries, split, tuple(_DTYPES)) for split in found
        }
        self.context: int = self._splits[found[0]].column("tokens").row_shape[0]
        """Tokens in a block."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._splits)

    def n_blocks(self, split: str) -> int:
        """Committed blocks of `split`."""
        return self._of(split).n_rows

    def complete(self, split: str) -> bool:
        """Whether every planned block of `split` is committed."""
        return self._of(split).complete

    def tokens(self, split: str, start: int, stop: int) -> NDArray[np.int32]:
        """Token ids of blocks [start, stop), int32 [stop - start, context]."""
        return self._of(split).rows("tokens", start, stop)

    def document(self, split: str, start: int, stop: int) -> NDArray[np.int64]:
        """Document number of each token, int64 [stop - start, context]."""
        return self._of(split).rows("document", start, stop)

    def position(self, split: str, start: int, stop: int) -> NDArray[np.int32]:
        """Position of each token, int32 [stop - start, context]."""
        return self._of(split).rows("position", start, stop)

    def reasons(self, split: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Why each token does not count (0: it does), uint8 [stop - start, context]."""
        return self._of(split).rows("reasons", start, stop)

    @property
    def tables(self) -> list[TableReader]:
        """Every split's table."""
        return list(self._splits.values())

    def _of(self, split: str) -> TableReader:
        if split not in self._splits:
            raise StoreError(f"there is no split {split!r} (there are {', '.join(self._splits)})")
        return self._splits[split]
