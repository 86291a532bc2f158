"""`saectl bench`: measures this machine, so that `plan` and `status` can predict times.

With a sweep, its model (if it is on this machine) and the sizes of its SAEs are measured, which
makes predictions for it much better; without one, defaults. Writes one file, touches nothing else.
"""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.asked import Size, default_sizes, sizes_of
from sae_cli.cli.measure import measured
from sae_cli.cli.session import open_sweeps
from sae_cli.errors import OK, UsageError
from sae_cli.plan.calibration import Calibration
from sae_cli.spec.load import find
from sae_cli.spec.train import ARCHITECTURES
from sae_cli.store.layout import Workspace

Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="D_INxWIDTHxBATCH",
        show_default=False,
        help="Train SAEs of this size instead of the sweep's; repeatable.",
    ),
]
Archs = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        metavar="ARCH",
        show_default=False,
        help="Of this architecture, with --size or without a sweep; repeatable.",
    ),
]
Seconds = Annotated[
    float, typer.Option("--seconds", metavar="S", min=1.0, help="How long to measure, about.")
]


def bench(
    spec: o.SpecFile = None,
    model: o.Model = None,
    sets: o.Sets = None,
    store: o.Store = o.DEFAULT_STORE,
    sizes: Sizes = None,
    archs: Archs = None,
    seconds: Seconds = 30.0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Measure this machine, so that `plan` and `status` predict times.

    Forwards, training steps, writing, evaluation. The numbers, with their units, go to `bench/` of
    the workspace, one file for each device.
    """
    workspace = Workspace(store)
    named = spec is not None or model is not None
    (opened,) = open_sweeps(spec if named else find("tiny"), model, sets, workspace, online=False)
    if sizes or not named:
        asked = default_sizes(_archs(archs), [_size(text) for text in sizes or ()])
    elif archs:
        raise UsageError("--arch goes with --size: a sweep says which architectures it trains")
    else:
        asked = sizes_of(opened.graph) or default_sizes((), ())  # where nothing is trained

    def say(text: str) -> None:
        if not (quiet or json):
            print(text, file=sys.stderr, flush=True)

    found = measured(opened.graph, asked, seconds, say, named=named)
    written = found.save(workspace)
    if json:
        print(found.model_dump_json(indent=2))
        return OK
    _show(found)
    print(f"written to {written}: saectl plan and saectl status predict from it")
    return OK


def _show(found: Calibration) -> None:
    rows = [
        ("forward", f"{p.model} {p.dtype}", f"{p.flops_per_second / 1e9:,.1f} GFLOP/s",
         f"{1 / p.seconds_per_token:,.0f} tokens/s")
        for p in found.forward
    ]  # fmt: skip
    rows += [
        ("train", f"{p.arch} {p.d_in}x{p.width}, batch {p.batch_size}",
         f"{p.flops_per_second / 1e9:,.1f} GFLOP/s", f"{p.seconds_per_step * 1e3:,.1f} ms/step")
        for p in found.train
    ]  # fmt: skip
    rows += [
        ("write", f"{p.dtype} {p.d_in}", f"{p.mb_per_second:,.0f} MB/s",
         f"{1 / p.seconds_per_row:,.0f} rows/s")
        for p in found.write
    ]  # fmt: skip
    rows += [
        ("eval", p.model, f"{p.flops_per_second / 1e9:,.1f} GFLOP/s",
         f"{1 / p.seconds_per_token:,.0f} tokens/s")
        for p in found.evaluation
    ]  # fmt: skip
    rows.append(("tokens", "packing text", "", f"{found.tokens_per_second:,.0f} tokens/s"))
    print(f"{found.device}, {found.measured}")
    render.table(["what", "of", "", " "], rows, right=["", " "])
    for note in found.notes:
        print(f"note: {note}")


def _size(text: str) -> Size:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None or not all(map(int, match.groups())):
        raise UsageError(f"--size {text}: write D_INxWIDTHxBATCH, for example 2048x16384x4096")
    return Size(*map(int, match.groups()))


def _archs(names: list[str] | None) -> list[str]:
    wrong = [name for name in names or () if name not in ARCHITECTURES]
    if wrong:
        raise UsageError(f"--arch {wrong[0]}: there are {', '.join(ARCHITECTURES)}")
    return list(names or ())
