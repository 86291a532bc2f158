"""Evaluations together, alone and in rounds: the same numbers, few forwards, one failure each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from judging import BATCHES, LEAST, SAES, Sweep, of
from safetensors.torch import load, save

from sae_cli.errors import Interrupted
from sae_cli.plan.place import folder
from sae_cli.stages import eval as stage
from sae_cli.stages import eval_rounds
from sae_cli.store.weights import WEIGHTS


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Don't change it."""
    here = Sweep(tmp_path_factory.mktemp("trained"))
    here.train()
    return here


@pytest.fixture
def sweep(trained: Sweep, tmp_path: Path) -> Sweep:
    shutil.copytree(trained.workspace.root, tmp_path / "store", symlinks=True)
    return Sweep(tmp_path)


@pytest.fixture(scope="module")
def alone(trained: Sweep, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The numbers of each SAE, evaluated in a job of its own."""
    root = tmp_path_factory.mktemp("alone")
    shutil.copytree(trained.workspace.root, root / "store", symlinks=True)
    here = Sweep(root)
    for each in here.evals:
        here.run([each])
    return here.numbers()


def test_together_as_alone_with_the_least_forwards(sweep: Sweep, alone: dict[str, str]) -> None:
    sweep.run(sweep.evals)
    assert len(alone) == 2 * SAES and sweep.numbers() == alone
    made, clean, least = sweep.forwards()
    assert clean == BATCHES and least == LEAST
    checks = {1, 2, 3}  # layers behind which edits begin: none is behind layer 0's own MLP
    assert made == least + len(checks)


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(1, None, 3)])
def test_any_other_grouping_as_alone(sweep: Sweep, alone: dict[str, str], order: slice) -> None:
    some = sweep.evals[order]
    sweep.run(some)
    assert sweep.numbers() == of(alone, some)


@pytest.mark.parametrize("most", [1, 3, 5])
def test_what_does_not_fit_is_judged_in_rounds_with_the_same_numbers(
    sweep: Sweep, alone: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is done when its round is, and ablations are not made again."""
    ended: list[int] = []
    monkeypatch.setattr(stage, "room_for", lambda *_: lambda seats: len(seats) <= most)
    plain = stage._round

    def told(*given: Any) -> None:
        ended.append(len(sweep.finished))
        plain(*given)

    monkeypatch.setattr(stage, "_round", told)
    plainly = [each for each in sweep.evals if "target" not in each.deps]
    sweep.run(plainly)
    count = -(-len(plainly) // most)
    assert sweep.numbers() == of(alone, plainly)
    assert ended == [most * i for i in range(count)]
    made, clean, least = sweep.forwards()
    assert clean == BATCHES * count and least == BATCHES * (1 + 2 * 4 + len(plainly))
    checks = 1  # behind two layers
    assert made == least + BATCHES * (count - 1) + checks
    assert sweep.report.begun[1] == count * 1024 == sweep.report.at_[-1]
    assert any(f"in {count} rounds" in note for note in sweep.report.notes)


def test_rounds_follow_the_memory_there_is(
    sweep: Sweep, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs: list[int] = []
    plain = eval_rounds.need

    def told(seats: Any, *given: Any) -> int:
        needs.append(plain(seats, *given))
        return needs[-1]

    monkeypatch.setattr(eval_rounds, "need", told)
    sweep.run(sweep.evals)
    assert needs == sorted(needs) and needs[0] < needs[-1], "more SAEs never need less"
    whole = sweep.forwards()[1]
    monkeypatch.setattr(stage, "free_memory", lambda _: (None, needs[len(needs) // 2]))
    sweep.run(sweep.evals)
    assert sweep.forwards()[1] > whole and sweep.numbers() == alone
    monkeypatch.setattr(stage, "free_memory", lambda _: (None, 1))
    sweep.run(sweep.evals[:2])
    assert sweep.forwards()[1] == 2 * BATCHES, "one that does not fit alone is tried alone"


def not_finite(weights: Path) -> None:
    tensors = load(weights.read_bytes())
    tensors["b_enc"][3] = torch.nan
    weights.write_bytes(save(tensors))


def torn(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:100])


@pytest.mark.parametrize(("harm", "said"), [(not_finite, "not finite"), (torn, "damaged")])
def test_an_sae_that_is_damaged_fails_alone(
    sweep: Sweep, alone: dict[str, str], harm: Callable[[Path], None], said: str
) -> None:
    ill = sweep.evals[5]
    harm(folder(sweep.workspace, ill.deps["train"]).path / WEIGHTS)
    sweep.run(sweep.evals)
    assert list(sweep.failed) == [ill.slug] and said in sweep.failed[ill.slug]
    well = [each for each in sweep.evals if each is not ill]
    assert set(sweep.finished) == {each.slug for each in well}
    assert sweep.numbers() == of(alone, well)


def test_a_site_whose_array_is_gone_fails_its_own_saes_only(sweep: Sweep) -> None:
    array = sweep.evals[0].deps["cache"]
    folder(sweep.workspace, array).done.unlink()
    sweep.run(sweep.evals)
    hit = {each.slug for each in sweep.evals if array in each.deps.values()}
    assert set(sweep.failed) == hit and len(hit) in range(1, SAES)
    assert set(sweep.finished) == {each.slug for each in sweep.evals} - hit


def test_a_stop_between_batches_leaves_what_was_finished(
    sweep: Sweep, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "room_for", lambda *_: lambda seats: len(seats) <= 4)
    looks = iter(range(2))
    with pytest.raises(Interrupted, match="an evaluation begins again"):
        sweep.run(sweep.evals, stop=lambda: next(looks, None) is None)
    assert len(sweep.finished) == 8
    left = [each for each in sweep.evals if each.slug not in sweep.finished]
    sweep.run(left)
    assert sweep.numbers() == alone
