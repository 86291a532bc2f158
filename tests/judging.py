"""A sweep of SAEs and transcoders, trained, and its evaluations as the runner hands them over.

`Sweep.run` is one job of the stage: what was finished, what failed and what was said is kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from training import Silent

from sae_cli.errors import SaectlError
from sae_cli.plan.graph import Graph, Stage, build
from sae_cli.plan.pin import Pins
from sae_cli.plan.place import folder
from sae_cli.run import inline
from sae_cli.run.context import Context
from sae_cli.spec.load import load
from sae_cli.stages import eval as stage
from sae_cli.stages.metrics import DENSITY, METRICS
from sae_cli.stages.task import Dep, Task
from sae_cli.store.layout import Workspace

SPEC = """\
name: judged
model: tiny
data: {tokens: 4096, heldout_tokens: 1024, context: 64}
train: {width: 64, num_tokens: 1024, batch_size: 512, shuffle_tokens: 2048}
eval: {batch_tokens: 512}
matrix:
  layer: [0, 2]
  site: [resid_mid, mlp_out]
  sae:
    - {arch: topk, k: 8}
    - {arch: jumprelu, l0: 8}
    - {arch: topk, k: 4, out_site: resid_post}
"""
BATCHES, SAES = 2, 12
JUDGED = 2 * 3  # resid_post by the transcoders
LEAST = BATCHES * (1 + 2 * JUDGED + SAES)


class Sweep:
    """Trained, in a workspace of its own."""

    def __init__(self, root: Path, *sets: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "judged.yaml").write_text(SPEC, encoding="utf-8")
        self.root, self.workspace = root, Workspace(root / "store")
        pins = Pins(self.workspace.root, online=False)
        self.graph: Graph = build(pins.apply(load(root / "judged.yaml", sets)))
        self.evals = self.graph.of("eval")
        self.report, self.failed = Silent(), dict[str, str]()
        self.finished: list[str] = []

    def train(self) -> None:
        context = Context(self.workspace, self.report, "cpu", lambda: False)
        results = inline.run(self.graph.of("tokens", "cache", "train"), context)
        assert {result.ending for result in results} == {"done"}

    def run(self, stages: Sequence[Stage], stop: Callable[[], bool] = lambda: False) -> None:
        """One job of the stage, as the runner hands it over."""
        self.report = Silent()
        stage.run([self.task(each, stop) for each in stages])

    def task(self, one: Stage, stop: Callable[[], bool]) -> Task:
        out = folder(self.workspace, one).path
        out.mkdir(parents=True, exist_ok=True)

        def finish(files: Sequence[str], summary: Mapping[str, Any]) -> None:
            assert all((out / file).is_file() for file in files)
            self.finished.append(one.slug)

        def fail(error: SaectlError) -> None:
            self.failed[one.slug] = str(error)

        deps = {
            role: Dep(dep.work, folder(self.workspace, dep).path, dep.key, dep.slug)
            for role, dep in one.deps.items()
        }
        return Task(
            one.name, one.key, one.slug, one.work, out, deps, self.report, "cpu", stop, finish,
            lambda _: nullcontext(), nullcontext, lambda _: None, fail,
        )  # fmt: skip

    def numbers(self) -> dict[str, str]:
        """sha256 of what each evaluation wrote."""
        return {
            f"{one.slug} {name}": hashlib.sha256(file.read_bytes()).hexdigest()
            for one in self.evals
            for name in (METRICS, DENSITY)
            if (file := folder(self.workspace, one).path / name).exists()
        }

    def forwards(self) -> tuple[int, int, int]:
        """Those that were made, the clean ones of them, and the least, as the log says."""
        (said,) = [note for note in self.report.notes if note.startswith("forwards: ")]
        found = re.match(r"forwards: (\d+) \((\d+) clean, .*\); at least (\d+)", said)
        assert found is not None, said
        made, clean, least = map(int, found.groups())
        return made, clean, least


def of(numbers: dict[str, str], some: Sequence[Stage]) -> dict[str, str]:
    """Those of some SAEs."""
    wanted = {each.slug for each in some}
    return {name: digest for name, digest in numbers.items() if name.split()[0] in wanted}
