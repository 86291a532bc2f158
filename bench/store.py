"""The activation store against raw memory-mapped files and two peers: paired ratios from one run.

    python bench/store.py [--mb 512] [--d 2560] [--rounds 3] [--epochs 4] [--dtype bfloat16]
    python bench/store.py --rss

Each round writes the same rows through `Recorder` (with its checksums, statistics and syncs), as
one raw file with one sync, and in the formats of SAELens and OpenMOSS (`peers`). Then all are read
`--epochs` times, in batches of 8192 rows as float32: the raw file row by row in a shuffled order
(`raw`: training without a store) and in whole blocks at random places (`blocks`: nothing is
shuffled), the others shuffled in a pool of `--pool` rows. The order of all changes from round to
round; nothing leaves the page cache. A ratio above 1 means that the store is slower.

`--rss` prints the peak memory of processes that read 1, 5 and 20 million tokens.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import peers
import torch

from sae_cli.spec.stages import CacheSpec
from sae_cli.store.acts.array import ActivationReader, ArrayPlan, finish
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.shuffle import ShuffledReader

BATCH = 8192
TOKENS = (1_000_000, 5_000_000, 20_000_000)
RSS_D = 64


def main() -> None:
    """Print one line per ratio: median, least, greatest over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=256, help="MB of rows, at 16 bits a number")
    parser.add_argument("--d", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="times that all rows are read")
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32", "int8"], default="bfloat16"
    )
    parser.add_argument("--pool", type=int, default=32_768, help="rows shuffled together")
    parser.add_argument("--no-peers", action="store_true", help="only the raw file")
    parser.add_argument("--rss", action="store_true", help="peak memory of reading instead")
    args = parser.parse_args()
    if args.rss:
        print_rss(args.dtype, args.pool)
    else:
        print_ratios(args)


def print_ratios(args: argparse.Namespace) -> None:
    """Time everything and print it."""
    mb, d, rounds, dtype, pool = args.mb, args.d, args.rounds, args.dtype, args.pool
    epochs, with_peers = args.epochs, not args.no_peers
    rows = max(1, mb * 2**20 // (2 * d) // BATCH) * BATCH
    exact = dtype if dtype != "int8" else "bfloat16"
    data = torch.randn(rows, d, generator=torch.Generator().manual_seed(0))
    data = data.to(getattr(torch, exact))
    half = data.half() if with_peers else data
    seconds: dict[str, list[float]] = {}
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            at = Path(name)
            writes: dict[str, Callable[[], object]] = {
                "store": lambda at=at: write_store(at / "store", [data], rows, d, dtype),
                "raw": lambda at=at: write_raw(at / "raw", data),
            }
            reads: dict[str, Callable[[], object]] = {
                "store": lambda at=at: drain(read_store(at / "store", pool, epochs)),
                "raw": lambda at=at: drain(read_raw(at / "raw", data, epochs)),
                "blocks": lambda at=at: drain(read_blocks(at / "raw", data, epochs)),
            }
            if with_peers:
                writes["SAELens"] = lambda at=at: peers.write_saelens(at / "arrow", half, BATCH)
                writes["OpenMOSS"] = lambda at=at: peers.write_openmoss(at / "chunks", data)
                reads["SAELens"] = lambda at=at: [
                    drain(peers.read_saelens(at / "arrow", rows, d, pool, BATCH))
                    for _ in range(epochs)
                ]
                reads["OpenMOSS"] = lambda at=at: [
                    drain(peers.read_openmoss(at / "chunks", rows, pool, BATCH))
                    for _ in range(epochs)
                ]
            for what, acts in (("write", writes), ("read", reads)):
                for who in list(acts)[:: -1 if i % 2 else 1]:
                    seconds.setdefault(f"{what} {who}", []).append(timed(acts[who]))
    size = rows * d * 2 / 1e6
    print(
        f"{rows} rows x {d} = {size:.0f} MB at 16 bits, {dtype}, read {epochs} times in pools of "
        f"{pool}, {rounds} rounds"
    )
    for name, spent in seconds.items():
        what, who = name.split()
        line = f"{what:<6}{who:<10}{statistics.median(spent):8.2f} s"
        if who != "store":
            ratios = [a / b for a, b in zip(seconds[f"{what} store"], spent, strict=True)]
            low, high = min(ratios), max(ratios)
            line += f"   store / {who}: {statistics.median(ratios):.2f}  ({low:.2f} to {high:.2f})"
        print(line)


def timed(act: Callable[[], object]) -> float:
    """Seconds that `act` takes, once the disk has nothing left to do."""
    os.sync()
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def drain(batches: Iterable[torch.Tensor]) -> None:
    """Take all batches."""
    for batch in batches:
        assert batch.dtype is torch.float32


def write_raw(path: Path, data: torch.Tensor) -> None:
    """One raw mapped file, flushed."""
    words = data.view(torch.int16 if data.itemsize == 2 else torch.int32).numpy()
    mapped = np.memmap(path, words.dtype, "w+", shape=words.shape)
    mapped[:] = words
    mapped.flush()
    with path.open("rb") as f:
        os.fsync(f.fileno())


def write_store(
    folder: Path, batches: Iterable[torch.Tensor], rows: int, d: int, dtype: str
) -> None:
    """Rows through the store, in pieces of BATCH, sealed."""
    spec = CacheSpec(dtype=dtype)
    context = peers.CONTEXT
    chunk, shard = spec.chunk_rows(d, context, rows), spec.shard_rows(d, context, rows)
    with Recorder(folder, ArrayPlan(rows, d, chunk, shard, spec.dtype)) as recorder:
        at = 0
        for data in batches:
            for start in range(0, len(data), BATCH):
                part = data[start : start + BATCH]
                recorder.put(at, part, np.zeros(len(part), np.uint8))
                at += len(part)
        recorder.drain()
    finish(folder)


def read_raw(path: Path, like: torch.Tensor, epochs: int) -> Iterable[torch.Tensor]:
    """All rows of a mapped file in a shuffled order."""
    mapped = map_raw(path, like)
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(like))
        for start in range(0, len(like), BATCH):
            rows = mapped[order[start : start + BATCH]]
            yield torch.from_numpy(rows).view(like.dtype).float()


def read_blocks(path: Path, like: torch.Tensor, epochs: int) -> Iterable[torch.Tensor]:
    """All rows in blocks at random places of a mapped file."""
    mapped = map_raw(path, like)
    for epoch in range(epochs):
        for b in np.random.default_rng(epoch).permutation(len(like) // BATCH):
            block = np.array(mapped[b * BATCH : (b + 1) * BATCH])
            yield torch.from_numpy(block).view(like.dtype).float()


def map_raw(path: Path, like: torch.Tensor) -> np.ndarray:
    """What `write_raw` wrote."""
    word = np.int16 if like.itemsize == 2 else np.int32
    return np.memmap(path, word, "r", shape=tuple(like.shape))


def read_store(folder: Path, pool: int, epochs: int) -> Iterable[torch.Tensor]:
    """All rows, shuffled row by row."""
    reader = ActivationReader(folder)
    end = epochs * reader.n_rows
    with ShuffledReader(reader, pool, 0, end=end) as stream:
        for start in range(0, end - BATCH + 1, BATCH):
            yield stream.batch(start, BATCH)


def print_rss(dtype: str, pool: int) -> None:
    """A table: tokens, MB of the array, peak MB of the process that read all of it."""
    print(f"d = {RSS_D}, {dtype}, pools of {pool}\n{'tokens':>12}{'array MB':>10}{'peak MB':>10}")
    for tokens in TOKENS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "store"
            alone(_fill, folder, tokens, dtype)
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            peak = alone(_peak, folder, pool)
        print(f"{tokens:>12,}{size / 1e6:>10.0f}{peak / 1e6:>10.0f}", flush=True)


def alone(act: Callable[..., int], *args: object) -> int:
    """What `act` returns in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(act, args)


def _fill(folder: Path, tokens: int, dtype: str) -> int:
    piece = torch.randn(2**18, RSS_D, generator=torch.Generator().manual_seed(0)).bfloat16()
    pieces = (piece[: tokens - start] for start in range(0, tokens, len(piece)))
    write_store(folder, pieces, tokens, RSS_D, dtype)
    return tokens


def _peak(folder: Path, pool: int) -> int:
    drain(read_store(folder, pool, 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
