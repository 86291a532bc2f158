"""A training step, ours against three peers' own trainers: paired ratios from one process.

    python bench/train_step.py [--arch topk|batchtopk|jumprelu] [--d 1024] [--d-sae 16384] [--k 32]
        [--batch 4096] [--threads 2] [--rounds 7] [--device cpu] [--only NAME ...] [--no-memory]
        [--clock wall|cpu]
    python bench/train_step.py --fvu 1000 [--lr 0.0003 0.001 0.003] [sizes as above]
    python bench/train_step.py --grid 6 [--command] [--tokens 200000] [--d 64] [--d-sae 512]

`make bench-peers` makes an environment with the peers (`train_peers`) and runs the first line in
it; a peer that is not installed is left out, with a line that says so.

Every round gives each one step on the same batch, in turns forwards and backwards, and the dense
product of the encoder alone (the floor) in float32 and bfloat16, each the fastest way that is found
here for it. A ratio is taken within a round: median (least to greatest). JumpReLU is set to its
target L0 first, as late in training; AuxK is at rest, since nothing is dead so early.

Peak memory is what a process of its own adds to its resident set over three full steps (Linux's
VmHWM), counted from a step of eight rows, after which parameters and moments are there and
gradients are gone; on a GPU, torch's own count. Its unit is 4 * batch * d_sae bytes, the size of
the pre-activations. `--clock cpu` counts the processor's seconds instead of the wall clock's: for
a busy machine, best with one thread (waiting threads spin).

`--fvu STEPS` trains all on the same stream of synthetic sparse data and prints the FVU on unseen
rows; with several rates, each one's best. `--grid N` is in `train_grid`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import train_grid
from torch import Tensor
from torch.nn.functional import linear
from train_peers import Contender, Missing, Ours, Setup, contenders, drawn

Timer = Callable[[Callable[[], object]], float]
USUAL = ("ours", "ours-bf16", "saelens", "dictionary_learning", "sparsify")
FLOORS = ("floor float32", "floor bfloat16")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BATCHES = 4
"""Different batches that the rounds take in turns."""
AHEAD = 100_000
"""Steps that a timed run is told it has: its rates neither rise nor fall meanwhile."""


def main() -> None:
    """Read the options, print the table they ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="topk")
    parser.add_argument("--d", type=int)
    parser.add_argument("--d-sae", type=int)
    parser.add_argument("--k", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=list(contenders()), default=list(USUAL))
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--fvu", type=int, metavar="STEPS")
    parser.add_argument("--lr", type=float, nargs="+", default=[None])
    parser.add_argument("--grid", type=int, metavar="N")
    parser.add_argument("--tokens", type=int, default=200_000, help="of --grid's array")
    parser.add_argument("--command", action="store_true", help="--grid: start the command")
    parser.add_argument("--memory-of", choices=list(contenders()), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = (64, 512, 4, 2048) if args.grid else (1024, 16384, 32, 4096)
    args.d, args.d_sae, args.k, args.batch = (
        given or usual
        for given, usual in zip((args.d, args.d_sae, args.k, args.batch), sizes, strict=True)
    )
    setup = Setup(
        args.arch, args.d, args.d_sae, args.k, args.batch, args.fvu or AHEAD, device=args.device
    )
    if args.memory_of:
        print(peak_beyond(contenders()[args.memory_of](setup), setup))
        return
    print(
        f"{setup.arch}, d {setup.d}, d_sae {setup.d_sae}, k {setup.k}, batch {setup.batch}, "
        f"{args.device}, {args.threads} threads, {args.clock} clock, load {os.getloadavg()[0]:.1f}"
    )
    if args.grid:
        train_grid.compare(setup, args.grid, args.tokens, args.rounds, args.command)
    elif args.fvu:
        print_quality(setup, args.only, args.lr)
    else:
        print_steps(setup, args)


def built(setup: Setup, names: list[str]) -> dict[str, Contender]:
    """Those of `names` that are there; says who is not."""
    there: dict[str, Contender] = {}
    for name in names:
        try:
            there[name] = contenders()[name](setup)
        except Missing as why:
            print(f"{name}: left out: {why}")
    return there


def print_steps(setup: Setup, args: argparse.Namespace) -> None:
    """Time, ratios and memory, a line for each contender."""
    there = built(setup, args.only)
    stream = drawn(setup.d, setup.batch)
    batches = [next(stream).to(setup.device) for _ in range(BATCHES)]
    for each in there.values():
        each.step(batches[0])
        settle(each, batches[0][:64])
    timer = partial(timed, device=setup.device, clock=CLOCKS[args.clock])
    seconds = rounds(there, floors(setup, batches[0], timer), batches, args.rounds, timer)
    memory = {} if args.no_memory else {name: told_peak(name) for name in there}
    print(
        f"{'':<21}{'s/step':>8}{'tokens/s':>10}  {f'slower than {next(iter(there))}':<26}"
        f"{'over fp32 floor':<22}{'over bf16 floor':<22}peak / unit"
    )
    first = seconds[next(iter(there))]
    for name, spent in seconds.items():
        middle = statistics.median(spent)
        line = f"{name:<21}{middle:>8.3f}{setup.batch / middle:>10,.0f}  {ratio(spent, first):<26}"
        line += "".join(f"{ratio(spent, seconds[floor]):<22}" for floor in FLOORS)
        if name in memory:
            line += f"{memory[name] / (4 * setup.batch * setup.d_sae):.2f}"
        print(line.rstrip())


def rounds(
    there: dict[str, Contender],
    floor: dict[str, Callable[[], object]],
    batches: list[Tensor],
    count: int,
    timer: Timer,
) -> dict[str, list[float]]:
    """Seconds of everyone in every round. The first warms up and is lost."""
    seconds: dict[str, list[float]] = {name: [] for name in (*there, *floor)}
    for number in range(count + 1):
        batch = batches[number % len(batches)]
        acts: dict[str, Callable[[], object]] = {
            n: partial(c.step, batch) for n, c in there.items()
        }
        acts |= floor
        for name in list(acts)[:: -1 if number % 2 else 1]:
            spent = timer(acts[name])
            if number:
                seconds[name].append(spent)
    return seconds


def settle(contender: Contender, x: Tensor) -> None:
    """Bring one whose speed depends on its sparsity to where training ends."""
    if isinstance(contender, Ours):
        contender.converge(x)


def timed(act: Callable[[], object], device: str, clock: Callable[[], float]) -> float:
    """Seconds until `act` is done, on the device too."""
    wait(device)
    start = clock()
    act()
    wait(device)
    return clock() - start


def wait(device: str) -> None:
    """Let a GPU finish."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def ratio(spent: list[float], other: list[float]) -> str:
    """Median (least to greatest) over the rounds."""
    found = [a / b for a, b in zip(spent, other, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def floors(setup: Setup, x: Tensor, timer: Timer) -> dict[str, Callable[[], object]]:
    """The encoder's product alone, in both number formats: all rows at once or in pieces of 256,
    by torch's linear or (float32 on a CPU) by oneDNN's, whichever is fastest here."""
    weights = torch.randn(setup.d_sae, setup.d, device=setup.device)
    bias = torch.zeros(setup.d_sae, device=setup.device)
    found: dict[str, Callable[[], object]] = {}
    for name, dtype in zip(FLOORS, (torch.float32, torch.bfloat16), strict=True):
        operands = (x.to(dtype), weights.to(dtype), bias.to(dtype))
        ways = [
            partial(product, *operands, rows, onednn)
            for rows in (len(x), 256)
            for onednn in (False, True)
            if not onednn or (dtype is torch.float32 and setup.device == "cpu" and has_onednn())
        ]
        found[name] = min(ways, key=lambda way: min(timer(way) for _ in range(3)))
    return found


def product(x: Tensor, weights: Tensor, bias: Tensor, rows: int, onednn: bool) -> None:
    """x W^T + b, `rows` rows at a time, each result dropped."""
    for piece in x.split(rows):
        if onednn:
            torch.ops.mkldnn._linear_pointwise(piece, weights, bias, "none", [], "")
        else:
            linear(piece, weights, bias)


def has_onednn() -> bool:
    """Whether torch was built with oneDNN's linear."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def told_peak(name: str) -> int:
    """`peak_beyond` of one contender, in a process of its own with the same options."""
    command = [sys.executable, *sys.argv, "--memory-of", name]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(said.splitlines()[-1])


def peak_beyond(contender: Contender, setup: Setup) -> int:
    """Bytes beyond parameters and moments at the highest point of three steps."""
    stream = drawn(setup.d, setup.batch)
    batches = [next(stream).to(setup.device) for _ in range(2)]
    contender.step(batches[0][:8])
    settle(contender, batches[0][:64])
    if setup.device.startswith("cuda"):
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is there
        base = high_water()
    for number in range(3):
        contender.step(batches[number % 2])
    if setup.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() - base
    return high_water() - base


def high_water() -> int:
    """Most bytes that this process had resident. (ru_maxrss begins with its parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def print_quality(setup: Setup, names: list[str], rates: list[float | None]) -> None:
    """FVU and L0 on unseen rows after the same steps on the same batches, each one's best rate."""
    stream = drawn(setup.d, max(setup.batch, 4096), seed=1)
    unseen, spare = (next(stream).to(setup.device) for _ in range(2))
    spread = (unseen - unseen.mean(0)).square().sum()
    print(f"{'':<21}{'FVU':>8}{'L0':>8}  at lr, after {setup.steps * setup.batch:,} tokens")
    for name in names:
        best: tuple[float, float, str] | None = None
        for rate in rates:
            told = Setup(**{**vars(setup), "lr": rate})
            for each in built(told, [name]).values():
                stream = drawn(setup.d, setup.batch, seed=0)
                for _ in range(setup.steps):
                    each.step(next(stream).to(setup.device))
                x_hat, l0 = each.reconstruct(unseen, spare)
                fvu = float((unseen - x_hat).square().sum() / spread)
                best = min(filter(None, (best, (fvu, l0, "own" if rate is None else f"{rate:g}"))))
            if best is None:
                break
        if best is not None:
            print(f"{name:<21}{best[0]:>8.4f}{best[1]:>8.1f}  {best[2]}", flush=True)


if __name__ == "__main__":
    main()
