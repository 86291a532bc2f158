"""Activations of one (model, layer, site) on disk: rows, their mask, and their statistics.

`acts.zarr` [n_rows, d] and `mask.zarr` uint8 [n_rows] (0 counts; any other value says why a row
does not) are committed together, chunk by chunk; see `chunks` for the protocol. bfloat16 is
stored as its uint16 bit pattern, since zarr has no such type; an attribute says so.

Statistics cover the rows that count. They are gathered while writing, so nothing is read twice,
and they refuse NaN and Inf: training must not be the first to notice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, sweep, write_bytes
from sae_cli.store.chunks import METADATA, Column, OnPoint, Table, TableWriter
from sae_cli.store.layout import StageDir
from sae_cli.store.moments import Moments
from sae_cli.store.tables import TableReader

Encoding = Literal["float32", "bfloat16", "float16"]
FORMAT = 1
_DISK = {"float32": "<f4", "bfloat16": "<u2", "float16": "<f2"}
_TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ActivationWriter:
    """Writes one array of `n_rows` x `d`, chunk after chunk, going on where a killed one stood.

    A context manager; holds the folder's writer lock until closed. `attrs` (plain JSON) is kept
    in the array's attributes. Raises StoreError when another process writes here, when the folder
    holds another plan's data, or committed chunks are gone.
    """

    def __init__(
        self,
        dir: Path,
        n_rows: int,
        d: int,
        chunk_rows: int,
        dtype: Encoding,
        attrs: Mapping[str, Any] | None = None,
        on_point: OnPoint | None = None,
    ) -> None:
        assert min(n_rows, d, chunk_rows) > 0
        self._files = StageDir(dir)
        self._dtype = dtype
        about = {**(attrs or {}), "format": FORMAT, "encoding": dtype}
        self._table = Table(
            "",
            n_rows,
            chunk_rows,
            (
                Column("acts", _DISK[dtype], (d,), {"saectl": about}),
                Column("mask", "|u1", (), {"saectl": {"format": FORMAT}}),
            ),
        )
        self._tables = TableWriter(dir, [self._table], self._files.commits, on_point)
        try:
            self._moments = self._resume(d)
        except StoreError:
            self.close()
            raise

    @property
    def next_chunk(self) -> int:
        """The first chunk that is not committed; equals `n_chunks` when all are."""
        return self._tables.committed[""]

    @property
    def n_chunks(self) -> int:
        """Chunks in the finished array."""
        return self._table.n_chunks

    @property
    def last_state(self) -> Any:
        """The `state` given with the latest commit, or None."""
        state = self._tables.last_state
        return None if state is None else state["source"]

    def rows_in(self, k: int) -> int:
        """Rows that chunk `k` must bring: `chunk_rows`, fewer in the last."""
        return self._table.rows_in(k)

    def write(self, k: int, acts: Tensor, reasons: NDArray[np.uint8], state: Any = None) -> None:
        """Commit chunk `k`: `acts` [rows, d] in the array's dtype, on any device; `reasons` [rows].

        `state` is any plain JSON (where the source stands). When this returns, the chunk survives
        a power cut. Raises StoreError for a chunk out of order, wrong shapes or dtype, or NaN/Inf
        in a row that counts; nothing is committed then.
        """
        if acts.dtype != _TORCH[self._dtype]:
            raise StoreError(
                f"{self._files.acts} stores {self._dtype}, got {acts.dtype}: convert before writing"
            )
        if reasons.shape != acts.shape[:1]:
            raise StoreError(
                f"{self._files.path}: {len(acts)} rows with reasons of shape {reasons.shape}"
            )
        values = {"acts": _to_disk(acts), "mask": reasons}
        self._tables.check("", k, values, len(acts))
        moments = self._moments.merged(Moments.of(_kept(acts, reasons)))
        if not moments.finite:
            first = k * self._table.chunk_rows
            raise StoreError(
                f"{self._files.acts}: rows {first} to {first + len(acts) - 1} hold NaN or Inf "
                "in rows that count",
                hint="store a wider type (cache.dtype: bfloat16 or float32), or look at the model",
            )
        running = moments.to_bytes()
        write_bytes(self._running(k), running, durable=False)
        digest = hashlib.sha256(running).hexdigest()
        self._tables.write("", k, values, len(acts), {"moments": digest, "source": state})
        self._moments = moments

    def finish(self) -> dict[str, Any]:
        """Seal the array: writes stats.safetensors. Returns rows, kept, chunks, bytes, mean_norm.

        Doing it again changes nothing. Raises StoreError when chunks are missing or no row counts.
        """
        self._tables.require_complete()
        if self._moments.count == 0:
            raise StoreError(
                f"{self._files.path}: the mask drops every row",
                hint="loosen data.mask in the spec",
            )
        write_bytes(self._files.stats, self._moments.to_bytes())
        for k in (0, 1):
            self._running(k).unlink(missing_ok=True)
        acts, _ = self._table.columns
        return {
            "rows": self._table.rows,
            "kept": self._moments.count,
            "chunks": self.n_chunks,
            "bytes": self._table.rows * acts.row_shape[0] * np.dtype(acts.dtype).itemsize,
            "mean_norm": self._moments.mean_norm,
        }

    def records(self) -> list[Path]:
        """The small files whose digests cover the whole array (the log names every chunk's)."""
        files = self._files
        return [files.acts / METADATA, files.mask / METADATA, files.commits, files.stats]

    def close(self) -> None:
        """Let another writer in. Closing twice is harmless."""
        self._tables.close()

    def __enter__(self) -> ActivationWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self, k: int) -> Path:
        """Moments of chunks 0 to k. Chunk k's commit carries its digest, so it needs no sync."""
        return self._files.path / f"running-{k % 2}.safetensors"

    def _resume(self, d: int) -> Moments:
        """Moments of the committed chunks: as left behind, or else computed again."""
        with explained(self._files.path, "tidy"):
            sweep(self._files.path, "running-*")
            sweep(self._files.path, self._files.stats.name)
            if self.next_chunk < self.n_chunks:
                self._files.stats.unlink(missing_ok=True)
            if self.next_chunk == 0:
                return Moments.none(d)
            digest = self._tables.last_state["moments"]
            for path in (self._running(self.next_chunk - 1), self._files.stats):
                data = path.read_bytes() if path.is_file() else b""
                if hashlib.sha256(data).hexdigest() == digest:
                    return Moments.from_bytes(data)
        moments = Moments.none(d)
        reader = ActivationReader(self._files.path)
        for k in range(reader.n_chunks):
            moments = moments.merged(Moments.of(_kept(reader.chunk(k), reader.reasons(k))))
        return moments


class ActivationReader:
    """Reads one array, also while it is being written: only committed chunks exist.

    Raises StoreError when there is no array, or its parts contradict each other.
    """

    def __init__(self, dir: Path) -> None:
        self._files = StageDir(dir)
        self._table = TableReader(dir, self._files.commits, ("acts", "mask"))
        acts = self._table.column("acts")
        self.attrs: dict[str, Any] = acts.attrs.get("saectl", {})
        """What the writer was given, and `encoding`."""
        encoding = self.attrs.get("encoding")
        if _DISK.get(str(encoding)) != acts.dtype or self.attrs.get("format") != FORMAT:
            raise StoreError(
                f"{self._files.acts}: encoding {encoding!r} (format {self.attrs.get('format')}) "
                f"over {acts.dtype} is not one this version reads"
            )
        self.dtype: torch.dtype = _TORCH[str(encoding)]
        self.d: int = acts.row_shape[0]
        self.chunk_rows: int = self._table.table.chunk_rows
        self.planned_rows: int = self._table.table.rows
        if self._files.stats.is_file() and not self.complete:
            raise StoreError(
                f"{self._files.path} was finished, but its log now holds "
                f"{self.n_chunks} of {self._table.table.n_chunks} chunks: the log is damaged",
                hint="delete this folder's data and run the stage again",
            )

    @property
    def n_rows(self) -> int:
        """Committed rows, kept or not."""
        return self._table.n_rows

    @property
    def n_chunks(self) -> int:
        """Committed chunks."""
        return self._table.n_chunks

    @property
    def complete(self) -> bool:
        """Whether every planned row is committed."""
        return self._table.complete

    def chunk(self, k: int) -> Tensor:
        """Chunk `k`, [rows, d] in the stored dtype: a view of the mapped file, without a copy.

        Writing to it changes memory only. Raises StoreError if it is not committed, or torn.
        """
        raw = self._table.chunk("acts", k)
        if self.dtype is torch.bfloat16:
            return torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(raw)

    def reasons(self, k: int | None = None) -> NDArray[np.uint8]:
        """Why rows do not count (0: they do): of chunk `k`, or of all committed rows."""
        if k is not None:
            return self._table.chunk("mask", k)
        return self._table.rows("mask", 0, self.n_rows)

    def keep(self) -> NDArray[np.bool_]:
        """Which rows count, bool [n_rows]."""
        keep: NDArray[np.bool_] = self.reasons() == 0
        return keep

    def stats(self) -> Moments:
        """Moments of the kept rows. Raises StoreError before the array is finished."""
        if not self._files.stats.is_file():
            raise StoreError(f"{self._files.path} has no statistics yet: it is not finished")
        with explained(self._files.stats, "read"):
            return Moments.from_bytes(self._files.stats.read_bytes())

    def verify(self) -> int:
        """Hash all chunks again; returns the bytes read. Raises StoreError naming the damage."""
        return self._table.verify()


def _to_disk(acts: Tensor) -> NDArray[Any]:
    plain = acts.detach().cpu().contiguous()
    if plain.dtype is torch.bfloat16:
        return plain.view(torch.int16).numpy().view(np.uint16)
    array: NDArray[Any] = plain.numpy()
    return array


def _kept(acts: Tensor, reasons: NDArray[np.uint8]) -> Tensor:
    if not reasons.any():
        return acts
    rows = np.flatnonzero(reasons == 0)
    return acts[torch.from_numpy(rows).to(acts.device)]
