"""A grid as the command runs it: failures are one SAE's, passes follow memory, bits stay."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sae_cli.errors import Interrupted
from sae_cli.plan.graph import Graph, build
from sae_cli.plan.memory import need
from sae_cli.plan.pin import Pins
from sae_cli.plan.place import folder
from sae_cli.run import inline
from sae_cli.run.base import Result
from sae_cli.run.context import Context
from sae_cli.spec.load import load
from sae_cli.store.layout import Workspace
from sae_cli.store.records.status import state

SPEC = """\
name: grid
model: tiny
data: {tokens: 8192, heldout_tokens: 1024, context: 64}
train: {width: 64, num_tokens: 5120, batch_size: 512, shuffle_tokens: 2048, log_every: 2}
matrix:
  layer: [1]
  site: [mlp_out]
  sae:
    - {arch: topk, k: 8}
    - {arch: topk, k: 8, lr: 1e39}
    - {arch: relu_l1, l1: 5}
    - {arch: batchtopk, k: 8, data_seed: 0, seed: 1}
"""
ENDINGS = ["done", "failed", "done", "done"]


class Told:
    """A report that keeps what was said."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.notes: list[str] = []

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        self.begun.append(f"{label}: {done} of {total} {unit}")

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


class Sweep:
    """The sweep in a workspace of its own."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "grid.yaml").write_text(SPEC, encoding="utf-8")
        self.workspace = Workspace(root / "store")
        pins = Pins(self.workspace.root, online=False)
        self.graph: Graph = build(pins.apply(load(root / "grid.yaml")))
        self.trains = self.graph.of("train")

    def run(
        self,
        kinds: tuple[str, ...] = ("train",),
        *,
        memory: int | None = None,
        stop: Callable[[], bool] = lambda: False,
        only: list[int] | None = None,
    ) -> list[Result]:
        self.report = Told()
        context = Context(self.workspace, self.report, "cpu", stop, memory=memory)
        stages = [s for s in self.graph.stages if s.kind in kinds]
        if only is not None:
            stages = [self.trains[i] for i in only]
        return inline.run(stages, context, keep_going=True)

    def bits(self) -> list[str | None]:
        """sha256 of each SAE's weights; None of one that is not there."""
        files = [folder(self.workspace, s).path / "sae_weights.safetensors" for s in self.trains]
        return [hashlib.sha256(f.read_bytes()).hexdigest() if f.exists() else None for f in files]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """With its array, and nothing trained. Don't change it."""
    here = Sweep(tmp_path_factory.mktemp("captured"))
    assert {r.ending for r in here.run(("tokens", "cache"))} == {"done"}
    return here


@pytest.fixture(scope="module")
def alone(captured: Sweep, tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    """What each SAE is when it trains in a run of its own."""
    here = copy(captured, tmp_path_factory.mktemp("alone"))
    for i in range(4):
        here.run(only=[i])
    return here.bits()


def copy(captured: Sweep, root: Path) -> Sweep:
    shutil.copytree(captured.workspace.root, root / "store", symlinks=True)
    return Sweep(root)


@pytest.fixture
def sweep(captured: Sweep, tmp_path: Path) -> Sweep:
    return copy(captured, tmp_path)


def test_one_sae_fails_for_itself_once_and_the_others_end_as_alone(sweep, alone):
    results = sweep.run()
    by_name = {r.stage.name: r for r in results}
    assert [by_name[s.name].ending for s in sweep.trains] == ENDINGS
    assert sweep.bits() == alone and alone[1] is None
    ill = sweep.trains[1]
    assert ill.slug in by_name[ill.name].cause and "loss is nan" in by_name[ill.name].cause
    assert sweep.report.begun == ["4 SAEs on tiny.L1.mlp_out: 0 of 40 steps"]
    assert not any("trying it alone" in note for note in sweep.report.notes)
    failed = json.loads(folder(sweep.workspace, ill).failed.read_text())
    assert "loss is nan" in failed["cause"]
    assert "loss is nan" in folder(sweep.workspace, ill).log.read_text()
    assert not folder(sweep.workspace, sweep.trains[0]).failed.exists()
    assert not folder(sweep.workspace, sweep.trains[0]).work.exists(), (
        "scratch goes when it is done"
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_grid_that_does_not_fit_trains_in_passes_with_the_same_bits(sweep, alone, count):
    some = [s for i, s in enumerate(sweep.trains) if i != 1]
    wanted = need(some[:count])
    assert wanted is not None
    sweep.run(only=[0, 2, 3], memory=wanted.together)
    assert [bits for i, bits in enumerate(sweep.bits()) if i != 1] == [alone[0], *alone[2:]]
    passes = -(-3 // count)
    assert len(sweep.report.begun) == passes
    told = [note for note in sweep.report.notes if "passes" in note]
    assert len(told) == (1 if passes > 1 else 0)
    assert all(f"train in {passes} passes" in note for note in told)


def test_status_knows_how_far_each_sae_of_a_stopped_grid_is(sweep, alone):
    looks = iter(range(14))
    with pytest.raises(Interrupted, match=r"saved at step \d of 10"):
        sweep.run(stop=lambda: next(looks, None) is None)
    found = [state(folder(sweep.workspace, sweep.trains[i])) for i in (0, 2, 3)]
    assert all(here.total == 10 and here.step in (3, 4, 5) for here in found), found
    sweep.run()
    assert sweep.bits() == alone
