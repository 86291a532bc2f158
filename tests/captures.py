"""Captures of a small sweep in this process: two arrays of the embedded model, eight shards each.

`tasks` are what `saectl cache` hands its stage, with real claims; a test may change how a part is
held. `capture` does the whole of it, as the command would.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sae_cli.lm.sites import find_tap
from sae_cli.plan.graph import Graph, Stage, build
from sae_cli.plan.pin import Pins
from sae_cli.plan.place import folder
from sae_cli.run import inline
from sae_cli.run.context import Context
from sae_cli.spec.load import load
from sae_cli.spec.stages import MaskSpec
from sae_cli.spec.work import CacheWork
from sae_cli.stages.arrays import Array, begin
from sae_cli.stages.passes import Passes
from sae_cli.stages.task import Dep, Task
from sae_cli.store.blocks import BlockReader
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.claim import claim

SPEC = """\
name: small
model: tiny
data: {tokens: 8192, heldout_tokens: 1024, context: 64}
cache: {batch_tokens: 512, chunk_bytes: 65_536, shard_bytes: 140_000, part_tokens: 2048}
train: {width: 64, num_tokens: 2048, batch_size: 512, shuffle_tokens: 2048}
matrix: {layer: [1], site: [resid_post, mlp_out], k: [8]}
"""
SHARDS = 8
Holding = Callable[[StageDir, str], AbstractContextManager[object]]


class Silent:
    """A report that nobody reads."""

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        pass

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Small:
    """The sweep in a workspace of its own."""

    def __init__(self, root: Path, *sets: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "small.yaml").write_text(SPEC, encoding="utf-8")
        self.root, self.workspace = root, Workspace(root / "store")
        self.graph: Graph = build(
            Pins(self.workspace.root, online=False).apply(load(root / "small.yaml", sets))
        )

    @property
    def stages(self) -> list[Stage]:
        """Its arrays' stages, in the order of their folders."""
        return sorted(self.graph.of("cache"), key=self.place)

    def place(self, stage: Stage) -> Path:
        return folder(self.workspace, stage).path

    def pack(self) -> None:
        """Make the token blocks that every capture reads."""
        inline.run(self.graph.of("tokens"), self._context(lambda: False))

    def capture(self, stop: Callable[[], bool] = lambda: False) -> list[str]:
        """As `saectl cache`, alone: how each stage ended. Raises Interrupted when stopped."""
        return [r.ending for r in inline.run(self.stages, self._context(stop))]

    def tasks(
        self,
        part: Holding = claim,
        waits: list[str] | None = None,
    ) -> list[Task]:
        """The stages' tasks, in the order of their folders; `waits` gets why one was left."""
        return [self._task(stage, part, [] if waits is None else waits) for stage in self.stages]

    def data(self) -> dict[str, str]:
        """A digest of each file of the arrays, but for the records of who worked when."""
        return {
            str(path.relative_to(self.workspace.root)): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in sorted(self.workspace.root.glob("cache/**/*"))
            if path.is_file() and path.name not in ("log.txt", "done.json", ".claim.lock")
        }

    def _task(
        self,
        stage: Stage,
        part: Holding,
        waits: list[str],
    ) -> Task:
        here = folder(self.workspace, stage)
        here.path.mkdir(parents=True, exist_ok=True)

        def finish(files: Sequence[str], summary: Mapping[str, Any]) -> None:
            here.done.write_text("{}")

        return Task(
            name=stage.name,
            key=stage.key,
            slug=stage.slug,
            work=stage.work,
            out=here.path,
            deps={
                role: Dep(dep.work, self.place(dep), dep.key, dep.slug)
                for role, dep in stage.deps.items()
            },
            report=Silent(),
            device="cpu",
            stop=lambda: False,
            finish=finish,
            part=lambda name: part(here, name),
            whole=lambda: claim(here),
            wait=waits.append,
        )

    def _context(self, stop: Callable[[], bool]) -> Context:
        return Context(self.workspace, Silent(), "cpu", stop)


def small(packed: Small, root: Path, *sets: str) -> Small:
    """The sweep in another workspace, with the same token blocks."""
    here = Small(root, *sets)
    if not here.workspace.root.exists():
        shutil.copytree(packed.workspace.root / "tokens", here.workspace.root / "tokens")
    return here


def begun(
    model: PreTrainedModel,
    here: Small,
    part: Holding = claim,
    order: int = 1,
    policy: MaskSpec | None = None,
) -> list[Array]:
    """The arrays, begun by one who names their tasks in this order (1 or -1). `policy` is the
    sweep's mask; without it nothing is an outlier."""
    tasks = here.tasks(part)[::order]
    works = [task.work for task in tasks if isinstance(task.work, CacheWork)]
    spec = works[0].cache
    passes = Passes(BlockReader(tasks[0].deps["tokens"].path), spec.batch_tokens)
    taps = [find_tap(model, work.layer, work.site) for work in works]
    return begin(model, tasks, taps, spec, passes, policy or MaskSpec(outlier_multiple=None))
