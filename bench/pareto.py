"""What each architecture reaches: L0 against FVU and CE recovered, on the embedded model.

    python bench/pareto.py [--sweep sweeps/pareto_tiny.yaml] [--out docs/pareto.md] [--store DIR]

Runs the sweep with `saectl eval`, as a user would, in a temporary workspace (or `--store`, which
goes on where it was left), and writes two tables from the metrics that the command reports: every
SAE, and each architecture's FVU at the same L0, read off the line between its neighbours in the
logarithms of both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

L0, FVU, RECOVERED = "l0_v1", "fvu.pooled_v1", "ce_recovered.zero_v1"
DEAD = "dead_fraction_v1"
SAME = (4, 8, 16)
Row = dict[str, Any]


def main() -> None:
    """Run the sweep, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", default="sweeps/pareto_tiny.yaml")
    parser.add_argument("--out", type=Path, default=Path("docs/pareto.md"))
    parser.add_argument("--store", type=Path, help="the workspace; a temporary one otherwise")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", dest="sets")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = evaluated(args.sweep, args.store or Path(name), args.sets)
    command = " ".join(["python bench/pareto.py", *(f"--set {each}" for each in args.sets)])
    args.out.write_text(page(rows, args.sweep, command))
    print(f"{args.out}: {len(rows)} SAEs")


def evaluated(sweep: str, store: Path, sets: list[str]) -> list[Row]:
    """The rows of `saectl eval --json`, in the sweep's order."""
    command = [sys.executable, "-m", "sae_cli", "eval", sweep, "--store", str(store), "--json"]
    for each in sets:
        command += ["--set", each]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    (told,) = json.loads(done.stdout)["sweeps"]
    rows: list[Row] = told["results"]
    return rows


def at_same(points: list[tuple[float, float]], l0: float) -> float | None:
    """FVU at `l0`, from points (L0, FVU); None outside of what they span, to 2 %."""
    points = sorted(points)
    for (low, before), (high, after) in itertools.pairwise(points):
        if 0.98 * low <= l0 <= 1.02 * high and high > low:
            share = math.log(l0 / low) / math.log(high / low)
            return math.exp((1 - share) * math.log(before) + share * math.log(after))
    return None


def page(rows: list[Row], sweep: str, command: str) -> str:
    """The document: how it was made, and both tables."""
    archs = list(dict.fromkeys(row["arch"] for row in rows))
    lines = [
        "# L0 against FVU and CE recovered",
        "",
        f"Made by `{command}` from `{sweep}`",
        f"(torch {torch.__version__.split('+')[0]}, CPU), on held-out text of the embedded model.",
        "CE recovered is against zero ablation. A 64-dimensional model of a small grammar and a",
        "short training, with each architecture's defaults: it shows that all of them work, not",
        "which is best for a large model.",
        "",
        "FVU at the same L0, between neighbours of the second table:",
        "",
        "| architecture |" + "".join(f" L0 {at} |" for at in SAME),
        "|---|" + "---|" * len(SAME),
    ]
    for arch in archs:
        points = [(r["metrics"][L0], r["metrics"][FVU]) for r in rows if r["arch"] == arch]
        found = [at_same(points, at) for at in SAME]
        lines.append(f"| {arch} |" + "".join(f" {f:.4f} |" if f else " |" for f in found))
    lines += [
        "",
        "| architecture | sparsity | L0 | FVU | CE recovered | dead |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (archs.index(r["arch"]), r["metrics"][L0])):
        m = row["metrics"]
        lines.append(
            f"| {row['arch']} | {row['variant']} | {m[L0]:.2f} | {m[FVU]:.4f} | "
            f"{m[RECOVERED]:.4f} | {m[DEAD]:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
