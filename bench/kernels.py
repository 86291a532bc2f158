"""The Triton kernels against plain torch, on a GPU: paired ratios, and how near each is to memory.

    python bench/kernels.py [--rows 4096] [--d 2560] [--width 65536] [--k 64] [--rounds 20]

Each round runs every operation by its kernel and in plain torch, the order of all changing from
round to round; times are medians of CUDA events. A ratio above 1 means that the kernel is faster.
GB/s count the bytes that an operation must move: gathered rows once per entry, everything else
once; `%` is their share of what a copy of 2 GB reaches on the same device (gathered rows can come
from the L2 cache, so it may be above 100). The encoder's product, which has no kernel of ours, is
printed for comparison. Before anything is timed the two results are compared. Plain torch sums in
the format of the rows; its gradients are therefore made from float32 rows.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sae_cli.sae.kernels import plain
from sae_cli.sae.kernels.lists import by_latent

Run = Callable[[], object]
RATES = {"lr": 1e-4, "beta1": 0.9, "beta2": 0.999}


@dataclass(frozen=True)
class Case:
    """One operation: both ways to do it, and the bytes that it must move."""

    kernel: Run
    torch: Run
    bytes: int


def main() -> None:
    """Print one line per operation: milliseconds, ratio, GB/s, share of what a copy reaches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096, help="tokens of a batch")
    parser.add_argument("--d", type=int, default=2560)
    parser.add_argument("--width", type=int, default=65_536, help="latents")
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench/kernels.py needs a GPU; tests/sae/test_kernels_*.py run without one")
    torch.manual_seed(0)
    device = torch.cuda.get_device_properties(0)
    print(f"{device.name}, torch {torch.__version__}, {args}")
    z = torch.randn(args.rows, args.d, device="cuda").bfloat16()
    enc = functional.normalize(torch.randn(args.width, args.d, device="cuda")).bfloat16()
    product = milliseconds({"product": lambda: functional.linear(z, enc)}, args.rounds)["product"]
    flops = 2 * args.rows * args.d * args.width
    print(f"{'encoder product, bfloat16':34}{product:9.3f} ms {flops / product / 1e9:8.0f} TF/s")
    halves = torch.empty(2, 2**28, device="cuda")
    copy = milliseconds({"copy": lambda: halves[0].copy_(halves[1])}, args.rounds)["copy"]
    best = 2 * 4 * 2**28 / copy / 1e6
    print(f"{'copy of 2 GB':34}{copy:9.3f} ms {best:8.0f} GB/s")
    cases = selection(z, enc, args.k) | products(z, enc, args.k) | optimizer(args.width, args.d)
    runs = {f"{name} kernel": case.kernel for name, case in cases.items()}
    runs |= {f"{name} torch": case.torch for name, case in cases.items()}
    times = milliseconds(runs, args.rounds)
    print(f"{'':34}{'kernel':>9}    {'torch':>9}    {'ratio':>6} {'GB/s':>8} {'%':>5}")
    for name, case in cases.items():
        ours, theirs = times[f"{name} kernel"], times[f"{name} torch"]
        speed = case.bytes / ours / 1e6
        print(
            f"{name:34}{ours:9.3f} ms {theirs:9.3f} ms {theirs / ours:6.1f} {speed:8.0f} "
            f"{100 * speed / best:5.0f}"
        )


def selection(z: Tensor, enc: Tensor, k: int) -> dict[str, Case]:
    """Top-k of rows and of the batch, over bfloat16 and float32 pre-activations."""
    from sae_cli.sae.kernels import fused

    cases = {}
    half = functional.linear(z, enc)
    for pre in (half, half.float()):
        dense = [
            torch.zeros_like(pre).scatter_(1, indices, values)
            for values, indices in (fused.top_k(pre, k), plain.top_k(pre, k))
        ]
        assert torch.equal(*dense), "the kernel keeps other latents of a row"
        del dense
        for ours, theirs in zip(fused.batch_top_k(pre, k), plain.batch_top_k(pre, k), strict=True):
            assert torch.equal(ours, theirs), "the kernel keeps other entries of the batch"
        name = str(pre.dtype).removeprefix("torch.")
        moved = pre.numel() * pre.element_size()
        cases[f"top_k, {name}"] = Case(
            lambda pre=pre: fused.top_k(pre, k), lambda pre=pre: plain.top_k(pre, k), moved
        )
        cases[f"batch_top_k, {name}"] = Case(
            lambda pre=pre: fused.batch_top_k(pre, k),
            lambda pre=pre: plain.batch_top_k(pre, k),
            moved,
        )
    return cases


def products(z: Tensor, enc: Tensor, k: int) -> dict[str, Case]:
    """Decoding, pairs' products and all gradients, over rows in bfloat16 and float32."""
    from sae_cli.sae.kernels import fused

    cases = {}
    (rows, d), width = z.shape, enc.shape[0]
    values, indices = fused.top_k(functional.linear(z, enc).float(), k)
    lists = by_latent(indices, width)
    lefts = indices.flatten()[lists.order]
    ends = torch.arange(0, rows * k + 1, k, device="cuda")
    for W, x in ((enc, z), (enc.float(), z.float())):
        entries = (values.flatten(), indices.flatten(), ends, W)
        pairs = (W, x, lefts, lists.sources, lists.ends)
        given = (values, lists, x, x, W)
        wide = (values, lists, x.float(), x.float(), W.float())
        near(fused.bags(*entries), plain.bags(*entries))
        near(fused.dots(*pairs), plain.dots(*pairs))
        for ours, theirs in zip(fused.backward(*given), plain.backward(*wide), strict=True):
            near(ours, theirs)
        name, size = str(W.dtype).removeprefix("torch."), W.element_size()
        gathered = rows * k * d * size
        cases[f"bags, {name}"] = Case(
            lambda entries=entries: fused.bags(*entries),
            lambda entries=entries: plain.bags(*entries),
            gathered + rows * d * 4,
        )
        cases[f"dots, {name}"] = Case(
            lambda pairs=pairs: fused.dots(*pairs),
            lambda pairs=pairs: plain.dots(*pairs),
            gathered + min(width, rows * k) * d * size,
        )
        cases[f"backward, {name}"] = Case(
            lambda given=given: fused.backward(*given),
            lambda wide=wide: plain.backward(*wide),
            2 * gathered + width * d * (size + 8),
        )
    cases["by_latent (torch in both)"] = Case(
        lambda: by_latent(indices, width), lambda: by_latent(indices, width), 4 * 8 * rows * k
    )
    return cases


def optimizer(width: int, d: int) -> dict[str, Case]:
    """Adam over decoder rows, with projection, renormalisation and copy, and over anything."""
    from sae_cli.sae.kernels import fused

    param = functional.normalize(torch.randn(width, d, device="cuda"))
    grad, copy = torch.randn_like(param), param.bfloat16()
    moments, count = torch.zeros(2, width, d, device="cuda"), torch.ones((), device="cuda")
    narrow = torch.zeros(2, width, d, device="cuda", dtype=torch.bfloat16)

    def step(how: Callable[..., None], unit: bool, state: Tensor = moments) -> Run:
        return lambda: how(param, grad, *state, count, **RATES, unit=unit, copy=copy)

    n = param.numel()
    return {
        "adam, unit rows": Case(step(fused.adam, True), step(plain.adam, True), 30 * n),
        "adam": Case(step(fused.adam, False), step(plain.adam, False), 30 * n),
        "adam, unit rows, bfloat16 moments": Case(
            step(fused.adam, True, narrow), step(plain.adam, True), 22 * n
        ),
    }


def near(ours: Tensor, theirs: Tensor) -> None:
    """Refuse results that differ by more than the order of a sum, or its format, explains."""
    unit = torch.finfo(theirs.dtype).eps
    error = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
    assert error < 16 * unit, f"off by {error:.1e}, of {unit:.1e}"


def milliseconds(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """The median time of each, after two calls that don't count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    shuffler = random.Random(0)
    for done in range(-2, rounds):
        shuffler.shuffle(order)
        for name in order:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            runs[name]()
            end.record()
            end.synchronize()
            if done >= 0:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(some) for name, some in times.items()}


if __name__ == "__main__":
    main()
