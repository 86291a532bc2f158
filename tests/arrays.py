"""Small activation arrays that tests of the store write: each row a function of its number alone.

Four shards of three chunks, the last shard and its last chunk short; 70 dimensions, so that int8
has a full and a short block. `part(n)` are the shards of writer n of two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_cli.store.acts.array import ArrayPlan, finish
from sae_cli.store.acts.encodings import Encoding
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.strands import Lanes
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import read_entries

N, D, CHUNK, SHARD = 90, 70, 8, 24
SHARDS = 4
ABOUT = {"site": "mlp_out"}
FLOATS: tuple[Encoding, ...] = ("float32", "bfloat16", "float16")
ALL: tuple[Encoding, ...] = (*FLOATS, "int8")


@cache
def acts() -> torch.Tensor:
    """Rows [N, D], float32."""
    return torch.randn(N, D, generator=torch.Generator().manual_seed(3))


@cache
def reasons() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Why rows do not count, [N]."""
    return (np.arange(N) % 7 == 0).astype(np.uint8) * 2


def plan(encoding: Encoding = "bfloat16", shard: int = SHARD) -> ArrayPlan:
    return ArrayPlan(N, D, CHUNK, shard, encoding)


def put(recorder: Recorder, first: int = 0, stop: int = N, step: int = 13) -> None:
    """Hand over rows [first, stop) in pieces of `step`, and wait until they are on disk."""
    for at in range(first, stop, step):
        piece = slice(at, min(at + step, stop))
        recorder.put(at, acts()[piece], reasons()[piece])
    recorder.drain()


def record(
    folder: Path,
    encoding: Encoding = "bfloat16",
    *,
    part: range | None = None,
    step: int = 13,
    threads: int | None = None,
    shard: int = SHARD,
    on_point: Callable[[str], None] | None = None,
) -> None:
    """Write what is missing of a part."""
    with (
        Lanes(threads) as lanes,
        Recorder(
            folder, plan(encoding, shard), ABOUT, part=part, lanes=lanes, on_point=on_point
        ) as recorder,
    ):
        put(recorder, step=step)


def written(folder: Path, encoding: Encoding = "bfloat16", shard: int = SHARD) -> Path:
    """A finished array."""
    record(folder, encoding, shard=shard)
    finish(folder)
    return folder


def committed(folder: Path) -> list[int]:
    """The shards of an array that are committed."""
    return [entry["k"] for entry in read_entries(LocalFiles(folder))]


def tree(folder: Path, but: Iterable[str] = ()) -> dict[str, str]:
    """Every file below `folder`, hidden ones too, with its sha256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }
