"""A sweep as it runs, against one cell at a time: the same digests, and what grouping saves.

    python bench/grouping.py [--sweep sweeps/tiny_suite.yaml] [--cells N] [--rounds N] [--set A.B=V]

Both ways go through `saectl`'s runner in this process, over the same stored activations, so that
neither pays for starting Python: grouped, all trainings are handed over at once, and then all
evaluations; one at a time, each is handed over alone. So the ratio is that of the work. A user who
starts the command once for each cell pays for that start too; `--command` measures it so, in
subprocesses. sha256 of every SAE and every metrics.json must agree, or the bench fails. Forwards
are those of the whole model, counted where they are made; bytes are those of the activation files
that are mapped to be copied. On a machine that others use too, set OMP_NUM_THREADS=1: threads that
wait for each other measure the others' load.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from train_grid import counted, run

from sae_cli.cli.progress import Lines
from sae_cli.cli.session import open_sweeps
from sae_cli.lm import restart
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.place import folder
from sae_cli.run.context import Context
from sae_cli.stages.metrics import METRICS
from sae_cli.store.layout import Workspace
from sae_cli.store.weights import WEIGHTS

KINDS = ("train", "eval")
WAYS = ("grouped", "one at a time")


@dataclass
class Cost:
    """What one kind of stage took, in one way."""

    seconds: list[float] = field(default_factory=list)
    forwards: int = 0
    bytes_read: int = 0


def main() -> None:
    """Run both ways, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", type=Path, default=Path("sweeps/tiny_suite.yaml"))
    parser.add_argument("--cells", type=int, help="the first so many; left out, all")
    parser.add_argument("--rounds", type=int, default=1, help="times to measure, after a warm-up")
    parser.add_argument("--command", action="store_true", help="start the command for each cell")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", dest="sets")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        opened = Opened(Path(name), args.sweep, args.sets)
        cells = list({train.key: train for _, train in opened.graph.cells}.values())[: args.cells]
        run(opened.graph.upstream([d for c in cells for d in c.deps.values()]), opened.context)
        way = in_commands if args.command else in_process
        costs = {each: {kind: Cost() for kind in KINDS} for each in WAYS}
        digests: dict[str, dict[str, str]] = {}
        # the process warms up; commands start cold every time
        for number in range(0 if args.command else -1, args.rounds):
            for each in WAYS[:: -1 if number % 2 else 1]:
                found = way(opened, cells, each, costs[each], measure=number >= 0)
                if digests.setdefault(each, found) != found:
                    raise SystemExit(f"{each}: other bits in another round")
        compare(digests, len(cells))
        tell(costs, len(cells), args.command)


class Opened:
    """A sweep in a workspace of its own."""

    def __init__(self, root: Path, sweep: Path, sets: Sequence[str]) -> None:
        self.sweep, self.sets = sweep, list(sets)
        self.workspace = Workspace(root / "store")
        (found,) = open_sweeps(sweep, None, self.sets, self.workspace, online=False)
        self.graph: Graph = found.graph
        device = found.graph.sweep.spec.device
        self.context = Context(self.workspace, Lines(quiet=True), device, lambda: False)

    def of(self, cells: Sequence[Stage], kind: str) -> list[Stage]:
        """The stages of a kind of these cells."""
        keys = {cell.key for cell in cells}
        own = [s for s in self.graph.of("eval") if s.deps["train"].key in keys]
        return list(cells) if kind == "train" else own

    def clear(self) -> None:
        """Forget all trainings and evaluations."""
        for kind in KINDS:
            shutil.rmtree(self.workspace.root / kind, ignore_errors=True)

    def digests(self, cells: Sequence[Stage]) -> dict[str, str]:
        """sha256 of each SAE and of each metrics.json."""
        files = {
            stage.name: folder(self.workspace, stage).path / file
            for kind, file in zip(KINDS, (WEIGHTS, METRICS), strict=True)
            for stage in self.of(cells, kind)
        }
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def in_process(
    opened: Opened, cells: Sequence[Stage], way: str, costs: dict[str, Cost], *, measure: bool
) -> dict[str, str]:
    """Train, then evaluate, here."""
    opened.clear()
    for kind in KINDS:
        stages = opened.of(cells, kind)
        jobs = [stages] if way == "grouped" else [[stage] for stage in stages]
        opened.context.verified.clear()
        with counted() as sizes, forwards() as made:
            start = time.perf_counter()
            for job in jobs:
                run(job, opened.context)
            spent = time.perf_counter() - start
        costs[kind].forwards, costs[kind].bytes_read = made[0], sum(sizes)
        if measure:
            costs[kind].seconds.append(spent)
    return opened.digests(cells)


def in_commands(
    opened: Opened, cells: Sequence[Stage], way: str, costs: dict[str, Cost], *, measure: bool
) -> dict[str, str]:
    """The same with the real command, once or once for each cell; nothing is counted inside."""
    opened.clear()
    base = [sys.executable, "-m", "sae_cli", "run", str(opened.sweep), "--quiet"]
    base += ["--store", str(opened.workspace.root)]
    base += [word for each in opened.sets for word in ("--set", each)]
    for kind in KINDS:
        names = [stage.name for stage in opened.of(cells, kind)]
        start = time.perf_counter()
        for job in [names] if way == "grouped" else [[name] for name in names]:
            only = [word for name in job for word in ("--only", name)]
            subprocess.run(base + only, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
        if measure:
            costs[kind].seconds.append(time.perf_counter() - start)
    return opened.digests(cells)


@contextmanager
def forwards() -> Iterator[list[int]]:
    """How many forwards evaluations make meanwhile."""
    made = [0]
    plain: Callable[..., Any] = restart.forward_logits

    def told(*given: Any, **how: Any) -> Any:
        made[0] += 1
        return plain(*given, **how)

    with ExitStack() as stack:
        stack.enter_context(patch.object(restart, "forward_logits", told))
        yield made


def compare(digests: dict[str, dict[str, str]], cells: int) -> None:
    """Fail unless both ways gave the same files."""
    first, second = (digests[way] for way in WAYS)
    if len(first) != 2 * cells or first.keys() != second.keys():
        raise SystemExit(f"files are missing: {len(first)} and {len(second)} of {2 * cells}")
    other = [name for name in first if first[name] != second[name]]
    if other:
        raise SystemExit("DIFFERENT BITS: " + ", ".join(other))
    print(f"sha256 of {cells} SAEs and {cells} metrics.json: the same, grouped and one at a time")


def tell(costs: dict[str, dict[str, Cost]], cells: int, command: bool) -> None:
    """Print seconds, forwards and bytes of both ways, and the ratios."""
    threads = torch.get_num_threads()
    where = "a command each" if command else "one process"
    print(f"{cells} cells, {where}, {threads} threads")
    for kind in KINDS:
        for way in WAYS:
            cost = costs[way][kind]
            line = f"{kind:<6}{way:<15}{statistics.median(cost.seconds):8.2f} s"
            if not command:
                line += f"{cost.forwards:8} forwards{cost.bytes_read / 1e6:10.1f} MB read"
            print(line)
        grouped, single = (costs[way][kind].seconds for way in WAYS)
        ratios = [b / a for a, b in zip(grouped, single, strict=True)]
        print(
            f"{kind:<6}one at a time / grouped: {statistics.median(ratios):.2f} in time "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
