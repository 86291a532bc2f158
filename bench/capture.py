"""Capture against a bare forward of the same model that stops at the same layer: paired ratios.

    python bench/capture.py [--stage capture|raw|store] [--model tiny|100m] [--rounds 30]
    python bench/capture.py --rss

Captures 3 sites (attn_out, mlp_out, resid_post) of all layers. The bare forward keeps nothing, has
one hook that ends it behind the last layer, and runs in inference mode. Both run in every round,
in turns first and second, and a round gives one ratio. A ratio above 1 means that capture is
slower. `--stage store` adds all that the cache stage does: outliers, statistics, checksums, bytes
on disk; a round is then several forwards, with the wait for the last of them to be written.
`100m` is a Qwen3 of random weights: 12 layers, d 768.

`--stage raw` only appends the same rows, as bfloat16, to one file for each tap, from threads beside
the forward: no checksum, no statistics, no commit, no sync. It is the least that any store costs on
this machine, and so what `--stage store` is to be read against.

`--rss` prints the peak memory of processes that capture 3 sites of the tiny model's last layer over
1, 5 and 20 million tokens, as the command does it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from sae_cli.lm.anatomy import layer_count
from sae_cli.lm.capture import Capture
from sae_cli.lm.device import input_device, pick_device
from sae_cli.lm.flops import forward_flops, peak_flops
from sae_cli.lm.load import load_model
from sae_cli.lm.sites import Tap, find_tap
from sae_cli.spec.stages import CacheSpec, MaskSpec, ModelSpec, Site
from sae_cli.stages.cache import counted
from sae_cli.store.acts.array import ArrayPlan
from sae_cli.store.acts.norms import norms_of
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.acts.strands import Lanes, Strand

SITES: tuple[Site, ...] = ("attn_out", "mlp_out", "resid_post")
CONTEXT = 128
FORWARDS = 32
"""Of the tiny model, in a round of `--stage store`: eight shards. The stage waits for its writes
once in a part, of 122 such forwards."""
TOKENS = (1_000_000, 5_000_000, 20_000_000)


class _Stop(Exception):
    """Ends the bare forward."""


def main() -> None:
    """Print one line per model: tokens/s of both, and the ratio: median (least to greatest)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=["capture", "raw", "store"], default="capture")
    parser.add_argument("--model", choices=["tiny", "100m"], action="append")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dir", help="where to write; a temporary folder otherwise")
    parser.add_argument("--rss", action="store_true", help="peak memory of a capture instead")
    args = parser.parse_args()
    if args.rss:
        print_rss(args.dir)
        return
    device = pick_device(args.device)
    print(f"{device}, {torch.get_num_threads()} threads, {args.dtype}, {args.rounds} rounds")
    for name in args.model or ["tiny", "100m"]:
        compare(name, made(name, args.dtype, device), args)


def compare(name: str, model: PreTrainedModel, args: argparse.Namespace) -> None:
    """Time both on one model, and report."""
    taps = [find_tap(model, n, site) for n in range(layer_count(model)) for site in SITES]
    shape = (max(1, args.batch_tokens // CONTEXT), CONTEXT)
    blocks = torch.randint(0, 700, shape, generator=torch.Generator().manual_seed(0))
    at_once = FORWARDS if args.stage != "capture" and name == "tiny" else 1
    plain = partial(bare, model, taps[-1], blocks, at_once)
    if args.stage == "capture":
        pairs = list(timed(plain, partial(Capture(model, taps), blocks), args.rounds))
    else:
        with tempfile.TemporaryDirectory(dir=args.dir) as folder, Lanes() as lanes:
            rounds = args.rounds + 2
            kind = Stored if args.stage == "store" else Appended
            ours = kind(Path(folder), model, taps, blocks, lanes, rounds, at_once)
            pairs = list(timed(plain, ours, args.rounds))
    report(name, pairs, model, blocks.numel() * at_once)


def made(name: str, dtype: str, device: torch.device) -> PreTrainedModel:
    """The model by its name here."""
    if name == "tiny":
        return load_model(ModelSpec.model_validate({"builtin": "tiny", "dtype": dtype}), device)
    config = Qwen3Config(
        vocab_size=4096,
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=6,
        head_dim=64,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    assert isinstance(model, PreTrainedModel)
    return model.to(device).eval().requires_grad_(False)


class Stored:
    """Forwards whose every tap is stored, as the cache stage does it."""

    def __init__(
        self,
        folder: Path,
        model: PreTrainedModel,
        taps: list[Tap],
        blocks: torch.Tensor,
        lanes: Lanes,
        rounds: int,
        at_once: int,
    ) -> None:
        self._reader, self._blocks, self._lanes = Capture(model, taps), blocks, lanes
        self._at_once, self._done = at_once, 0
        self._reasons = np.zeros(blocks.numel(), np.uint8)
        spec, rows = CacheSpec(), rounds * at_once * blocks.numel()
        self._recorders = []
        for n, tap in enumerate(taps):
            shape = (tap.dim, CONTEXT, rows)
            plan = ArrayPlan(
                rows, tap.dim, spec.chunk_rows(*shape), spec.shard_rows(*shape), spec.dtype
            )
            self._recorders.append(Recorder(folder / str(n), plan, lanes=lanes))

    def __call__(self) -> None:
        for _ in range(self._at_once):
            for recorder, acts in zip(self._recorders, self._reader(self._blocks), strict=True):
                flat = acts.flatten(0, 1)
                norms = norms_of(flat)
                reasons = counted(self._reasons, norms, 1e6, MaskSpec())
                recorder.put(self._done, flat, reasons, norms)
            self._done += self._blocks.numel()
        self._lanes.drain()


class Appended:
    """Forwards whose every tap goes to the end of a file, and nothing else."""

    def __init__(
        self,
        folder: Path,
        model: PreTrainedModel,
        taps: list[Tap],
        blocks: torch.Tensor,
        lanes: Lanes,
        rounds: int,
        at_once: int,
    ) -> None:
        self._reader, self._blocks, self._lanes = Capture(model, taps), blocks, lanes
        self._at_once = at_once
        self._files = [(folder / str(n)).open("wb", buffering=0) for n in range(len(taps))]
        self._strands = [Strand() for _ in taps]

    def __call__(self) -> None:
        for _ in range(self._at_once):
            taken = self._reader(self._blocks)
            for strand, file, acts in zip(self._strands, self._files, taken, strict=True):
                self._lanes.submit(strand, partial(append, file, acts))
        self._lanes.drain()


def append(file: BinaryIO, acts: torch.Tensor) -> None:
    """Write `acts` as bfloat16."""
    file.write(acts.bfloat16().cpu().view(torch.uint16).numpy().data)


def bare(model: PreTrainedModel, last: Tap, blocks: torch.Tensor, forwards: int) -> None:
    """Forwards up to `last` that keep nothing."""
    for _ in range(forwards):
        _bare(model, last, blocks)


def _bare(model: PreTrainedModel, last: Tap, blocks: torch.Tensor) -> None:
    def stop(*_: Any) -> None:
        raise _Stop

    handle = last.module.register_forward_hook(stop)
    with torch.inference_mode(), suppress(_Stop):
        model(input_ids=blocks.to(input_device(model)), use_cache=False)
    handle.remove()


def timed(
    one: Callable[[], object], other: Callable[[], object], rounds: int
) -> Iterator[tuple[float, float]]:
    """Seconds of both, each round; who goes first alternates. Two rounds warm up and are lost."""
    for number in range(rounds + 2):
        order = (one, other) if number % 2 else (other, one)
        seconds = {work: spent(work) for work in order}
        if number >= 2:
            yield seconds[one], seconds[other]


def spent(work: Callable[[], object]) -> float:
    """Seconds until `work` is done, on the device too."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Let the device finish."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(
    name: str, pairs: list[tuple[float, float]], model: PreTrainedModel, tokens: int
) -> None:
    """One line for one model."""
    ratios = [ours / bare for bare, ours in pairs]
    speeds = [tokens / statistics.median(column) for column in zip(*pairs, strict=True)]
    line = f"{name:<5} bare {speeds[0]:>9,.0f} tokens/s, capture {speeds[1]:>9,.0f} tokens/s, ratio"
    line += f" {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    flops = forward_flops(model, layer_count(model) - 1, CONTEXT)
    peak = peak_flops(model.device, model.dtype)
    if flops is not None:
        line += f", {speeds[1] * flops / 1e12:.3g} TFLOP/s"
    print(line + (f", MFU {speeds[1] * flops / peak:.1%}" if flops and peak else ""))


def print_rss(dir: str | None) -> None:
    """A table: tokens, MB of the arrays, peak MB of the process that captured them."""
    print(f"{'tokens':>12}{'arrays MB':>12}{'peak MB':>10}")
    for tokens in TOKENS:
        with tempfile.TemporaryDirectory(dir=dir) as name:
            options = ["--quiet", "--store", name, "--set", f"data.tokens={tokens}", "--only"]
            for verb, chosen in (("run", "tokens"), ("cache", "*L3*")):
                command = [sys.executable, "-m", "sae_cli", verb, "tiny", *options, chosen]
                peak = peak_of(command)
            arrays = (Path(name) / "cache").rglob("*/activations.zarr/**/*")
            size = sum(p.stat().st_size for p in arrays if p.is_file())
        print(f"{tokens:>12,}{size / 1e6:>12.0f}{peak / 1e6:>10.0f}", flush=True)


def peak_of(command: list[str]) -> int:
    """Peak memory, bytes, of a command that must succeed."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
