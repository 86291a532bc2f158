"""Tables for people on stdout, in colour on a terminal and plain elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sae_cli.cli.output import WaveLine
from sae_cli.cli.progress import clock
from sae_cli.plan.graph import amount
from sae_cli.plan.jobs import coalesce
from sae_cli.plan.memory import need
from sae_cli.plan.predict import Totals
from sae_cli.plan.reason import Row
from sae_cli.plan.room import Room
from sae_cli.report.elbow import Elbow
from sae_cli.report.results import SaeRow
from sae_cli.report.seeds import OverSeeds, SeedMean
from sae_cli.spec.work import CacheWork, ImportWork, TrainWork
from sae_cli.store.records.space import told

_COLOURS = {
    "run": "yellow",
    "skip": "dim",
    "wait": "cyan",
    "blocked": "red",
    "done": "green",
    "skipped": "dim",
    "failed": "bold red",
    "running": "cyan",
    "stale": "yellow",
    "pending": "yellow",
    "waiting": "dim",
    "evicted": "dim",
    "ok": "green",
    "passed over": "dim",
    "damaged": "bold red",
    "repaired": "green",
    "changed": "bold yellow",
    "not repaired": "bold red",
}
_NUMBERS = {
    "L0": ("l0_v1", "{:.1f}"),
    "FVU": ("fvu.pooled_v1", "{:.4f}"),
    "cosine": ("cosine_v1", "{:.4f}"),
    "dead %": ("dead_fraction_v1", "{:.1%}"),
    "CE clean": ("ce.clean_v1", "{:.3f}"),
    "spliced": ("ce.spliced_v1", "{:.3f}"),
    "ablated": ("ce.zero_v1", "{:.3f}"),
    "CE recovered": ("ce_recovered.zero_v1", "{:.4f}"),
    "KL": ("kl.spliced_v1", "{:.4f}"),
}
_OVER_SEEDS = ("L0", "FVU", "cosine", "dead %", "CE recovered", "KL")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()
) -> None:
    """Print a table; columns named in `right` are set flush right. Plain text on a pipe."""
    texts = [[str(v) for v in row] for row in rows]
    if not sys.stdout.isatty():
        _plain(columns, texts, right)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        shown.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in texts:
        shown.add_row(*(Text(v, style=_COLOURS.get(v, "")) for v in row))
    Console(highlight=False).print(shown)


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            v.rjust(w) if name in right else v.ljust(w)
            for name, v, w in zip(columns, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def plan(rows: Sequence[Row], room: Room) -> None:
    """The plan: what happens to each stage, why, and what it takes on disk."""
    table(
        ["stage", "name", "key", "action", "reason", "disk", "dtype"],
        [
            (
                r.stage.kind,
                r.stage.slug,
                r.stage.key,
                r.action,
                r.reason,
                "" if r.action == "skip" else told(r.bytes),
                dtype(r),
            )
            for r in rows
        ],
        right=["disk"],
    )
    going = [r.stage for r in rows if r.stage.kind == "train" and r.action == "run"]
    files = sum(isinstance(stage.work, ImportWork) for stage in going)
    if files:
        print(f"{files} SAE{'s' * (files > 1)} to import: nothing is trained")
    shared = coalesce([stage for stage in going if isinstance(stage.work, TrainWork)])
    needs = [found for job in shared if (found := need(job.stages)) is not None]
    if needs:
        many, passes = sum(len(job.stages) for job in shared), len(shared)
        print(
            f"{many} SAE{'s' * (many > 1)} to train in {passes} pass{'es' * (passes > 1)} over "
            f"stored activations; {told(max(n.together for n in needs))} of memory at most"
        )
    counts = {a: sum(r.action == a for r in rows) for a in ("run", "skip", "wait", "blocked")}
    said = ", ".join(f"{n} {a}" for a, n in counts.items() if n) or "nothing"
    more = " and what is not known yet" if room.unknown else ""
    bucket = f", {told(room.bucket)} to a bucket" if room.bucket else ""
    quota = "" if room.quota is None else f"; quota {told(room.quota)}, {told(room.used)} used"
    print(f"{said}; {told(room.local)}{more} to write{bucket}; {told(room.free)} free{quota}")
    if any(dtype(r) == "int8" and r.action != "skip" for r in rows):
        print(
            "int8 takes about half the bytes of bfloat16; its loss is measured when cached "
            "(typically < 0.02 % of the variance)"
        )
    for warning in room.warnings:
        print(f"warning: {warning}")


def waves(found: Sequence[WaveLine], budget: int | None) -> None:
    """What is on disk together, where a budget asks for waves."""
    if budget is None or not found:
        return
    print(f"{len(found)} wave{'s' * (len(found) > 1)} within {told(budget)} of activations:")
    for number, wave in enumerate(found, 1):
        names = [name.removeprefix("cache/").rpartition("-")[0] for name in wave.arrays]
        more = f" ... {names[-1]}" if len(names) > 1 else ""
        there = ", on disk already" if wave.begun else ""
        print(f"  {number}  {told(wave.bytes)}  {len(names)}: {names[0]}{more}{there}")


def totals(cost: Totals) -> None:
    """What the stages that run add up to, and on whose device."""
    said = [
        f"{amount(cost.capture_tokens)} tokens to capture" if cost.capture_tokens else "",
        f"{amount(cost.train_tokens)} to train on" if cost.train_tokens else "",
        f"{told(cost.bytes)} in all",
        f"{_flops(cost.forward_flops)} of forwards",
        f"{_flops(cost.train_flops)} of training",
    ]
    print("total: " + ", ".join(part for part in said if part))
    if cost.device_hours is None:
        unknown = [job for job in cost.jobs if job.device_hours is None]
        print(f"time: not known, of {len(unknown)} of {len(cost.jobs)} jobs: {unknown[0].why}")
    elif cost.assumed:
        print(
            f"device hours: {_hours(cost.device_hours)} on one {cost.device}, assumed to reach "
            f"{cost.reference}; saectl bench measures this machine"
        )
    else:
        by_kind: dict[str, float] = {}
        for job in cost.jobs:
            by_kind[job.kind] = by_kind.get(job.kind, 0.0) + (job.seconds or 0.0)
        parts = ", ".join(f"{kind} {clock(t)}" for kind, t in by_kind.items() if t >= 0.5)
        print(
            f"time: {clock(3600 * cost.device_hours)} predicted ({parts}), "
            f"{_hours(cost.device_hours)} device hours, on {cost.device} "
            f"as measured {cost.calibration}"
        )


def _flops(n: int | None) -> str:
    return "? FLOPs" if n is None else f"{n:.3g} FLOPs"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def dtype(row: Row) -> str:
    """The number format of a stage's activations and, once it is measured, what it cost."""
    work, done = row.stage.work, row.state.done
    if not isinstance(work, CacheWork):
        return ""
    loss = None if done is None else done.summary.get("fvu_loss")
    return work.cache.dtype + ("" if loss is None else f" (FVU loss {100 * loss:.2g} %)")


def results(rows: Sequence[SaeRow]) -> None:
    """The table that a run ends with: one row per SAE."""
    cells = []
    for r in rows:
        numbers = [
            "-" if (v := r.metrics.get(name)) is None else form.format(v)
            for name, form in _NUMBERS.values()
        ]
        variant = r.variant if r.control_of is None else f"{r.variant} (random model)"
        cells.append((r.model, r.site, r.layer, r.arch, r.width, variant, *numbers))
    table(
        ["model", "site", "layer", "arch", "width", "variant", *_NUMBERS],
        cells,
        right=["layer", "width", *_NUMBERS],
    )


def elbows(found: Sequence[Elbow]) -> None:
    """A line for each curve over the width."""
    for each in found:
        place = f"{each.model} L{each.layer} {each.site} {each.arch} {each.variant}".rstrip()
        curve = ", ".join(
            f"{width} {value:.4f}" for width, value in zip(each.widths, each.values, strict=True)
        )
        said = f"at width {each.width}" if each.width else "none: FVU falls all the way"
        print(f"elbow of {place}: {said}  (FVU by width: {curve})")


def seeds(found: Sequence[OverSeeds]) -> None:
    """Means over seeds, with half of their intervals' width, where there are any."""
    if not found:
        return
    print("over seeds: mean and interval of 95 % (Student's t)")
    cells = []
    for r in found:
        variant = r.variant if r.control_of is None else f"{r.variant} (random model)"
        numbers = [
            _mean(r.metrics.get(name), form)
            for name, form in (_NUMBERS[column] for column in _OVER_SEEDS)
        ]
        cells.append((r.model, r.site, r.layer, r.arch, r.width, variant, len(r.seeds), *numbers))
    table(
        ["model", "site", "layer", "arch", "width", "variant", "seeds", *_OVER_SEEDS],
        cells,
        right=["layer", "width", "seeds", *_OVER_SEEDS],
    )


def _mean(one: SeedMean | None, form: str) -> str:
    if one is None or one.value is None or one.low is None:
        return "-"
    return f"{form.format(one.value)} ± {form.format(one.value - one.low)}"
