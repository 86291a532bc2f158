"""Activation store against a raw memory-mapped file: paired ratios from one run.

    python bench/store.py [--mb 512] [--d 2560] [--rounds 3]

Writes the same rows through `ActivationWriter` (with its checksums, statistics and syncs) and as
one raw file with one sync; then reads shuffled batches through `ShuffledReader` and random
blocks of the raw file, cast to float32 alike. A ratio above 1 means that the store is slower.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sae_cli.store.activations import ActivationReader, ActivationWriter
from sae_cli.store.shuffle import ShuffledReader

BATCH = 8192


def main() -> None:
    """Print one line per ratio: median, least, greatest over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=256)
    parser.add_argument("--d", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    chunk = max(1, 4 * 2**20 // (2 * args.d))
    rows = max(chunk, args.mb * 2**20 // (2 * args.d) // chunk * chunk)
    data = torch.randn(rows, args.d, generator=torch.Generator().manual_seed(0)).bfloat16()
    write, read = [], []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            raw, ours = write_raw(folder / "raw", data), write_ours(folder / "store", data, chunk)
            write.append(ours / raw)
            raw, ours = read_raw(folder / "raw", rows, args.d), read_ours(folder / "store")
            read.append(ours / raw)
    size = rows * args.d * 2 / 1e6
    print(f"{rows} rows x {args.d} bfloat16 = {size:.0f} MB, {args.rounds} rounds, store / raw")
    for name, ratios in (("write", write), ("shuffled read", read)):
        low, high = min(ratios), max(ratios)
        print(f"{name:<14} {statistics.median(ratios):.2f}  ({low:.2f} to {high:.2f})")


def write_raw(path: Path, data: torch.Tensor) -> float:
    """Seconds for one raw file, synced."""
    start = time.perf_counter()
    with path.open("wb") as f:
        f.write(memoryview(data.view(torch.int16).numpy()))
        os.fsync(f.fileno())
    return time.perf_counter() - start


def write_ours(path: Path, data: torch.Tensor, chunk: int) -> float:
    """Seconds for the same rows through the store."""
    start = time.perf_counter()
    with ActivationWriter(path, len(data), data.shape[1], chunk, "bfloat16") as writer:
        for k in range(writer.n_chunks):
            part = data[k * chunk : (k + 1) * chunk]
            writer.write(k, part, np.zeros(len(part), np.uint8))
        writer.finish()
    return time.perf_counter() - start


def read_raw(path: Path, rows: int, d: int) -> float:
    """Seconds to read all rows in blocks at random places of a mapped file, as float32."""
    order = np.random.default_rng(0).permutation(rows // BATCH)
    start = time.perf_counter()
    mapped = np.memmap(path, np.int16, "r", shape=(rows, d))
    for b in order:
        block = np.array(mapped[b * BATCH : (b + 1) * BATCH])
        torch.from_numpy(block).view(torch.bfloat16).float()
    return time.perf_counter() - start


def read_ours(path: Path) -> float:
    """Seconds to read as many rows, row by row shuffled, as float32."""
    start = time.perf_counter()
    with ShuffledReader(ActivationReader(path), 262_144, 0) as reader:
        for b in range(reader.rows_per_epoch // BATCH):
            reader.batch(b * BATCH, BATCH)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
