"""The train stage in several processes: rank 0 writes what one process would, the others follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import Bench, bench

Processes = Callable[..., list[Any]]
PARALLEL = {"data": 2, "latent": 2}
SPECS: dict[str, dict[str, Any]] = {
    "topk": {"k": 4, "dead_after": 240},
    "batch": {"arch": "batchtopk", "k": 4},
}
WIDE = {name: {**spec, "parallel": PARALLEL} for name, spec in SPECS.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Path:
    """A folder in which one process has trained."""
    folder = bench(tmp_path_factory.mktemp("alone")).root
    ((code, _),) = processes(1, 1, folder, "stage", specs=SPECS)
    assert code == 0
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Bench:
    return bench(tmp_path)


def assert_same_sae(one: Path, other: Path, name: str) -> None:
    found, wanted = (
        load_file(root / "train" / name / "sae_weights.safetensors") for root in (one, other)
    )
    assert found.keys() == wanted.keys()
    for part, tensor in wanted.items():
        torch.testing.assert_close(found[part], tensor, rtol=1e-3, atol=1e-3, msg=part)


def losses(root: Path, name: str) -> list[tuple[int, float]]:
    lines = (root / "train" / name / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def test_four_processes_stop_and_one_goes_on_to_the_same_sae(place, alone, processes):
    """A stop that only one process hears of, after 13 steps of both SAEs."""
    ranks = processes(2, 2, place.root, "stage", specs=WIDE, steps=13)
    assert [code for code, _ in ranks] == [1] * 4
    assert "interrupted: train/" in ranks[0][1]["error"] and not ranks[0][1]["finished"]
    assert (place.root / "train" / "topk" / "work" / "state.safetensors").is_file()
    ((code, told),) = processes(1, 1, place.root, "stage", specs=SPECS)
    assert code == 0 and told["finished"].keys() == SPECS.keys()
    for name in SPECS:
        assert_same_sae(place.root, alone, name)
        for (step, loss), (at, wanted) in zip(
            losses(place.root, name), losses(alone, name), strict=True
        ):
            assert step == at and loss == pytest.approx(wanted, rel=1e-4)


def test_four_processes_finish_what_one_began_and_the_record_says_so(place, alone, processes):
    ((code, _),) = processes(1, 1, place.root, "stage", specs=SPECS, steps=13)
    assert code == 1
    ranks = processes(2, 2, place.root, "stage", specs=WIDE)
    assert [code for code, _ in ranks] == [0] * 4
    wanted = {**PARALLEL, "processes": 4}
    for name in SPECS:
        assert_same_sae(place.root, alone, name)
        assert ranks[0][1]["finished"][name]["parallel"] == wanted
        cfg = json.loads((place.root / "train" / name / "cfg.json").read_text())
        assert '"processes": 4' in json.dumps(cfg)
        assert "processes" not in (alone / "train" / name / "cfg.json").read_text()


def test_weights_that_are_not_finite_end_one_sae_in_every_process(place, processes):
    """The others of the grid go on, and nothing broken is written."""
    ill = {"k": 4, "lr": 1e39, "checkpoint_every": 1, "parallel": {"latent": 2}}
    well = {"k": 4, "num_tokens": 480, "parallel": {"latent": 2}}
    ranks = processes(1, 2, place.root, "stage", specs={"ill": ill, "well": well})
    told = ranks[0][1]
    assert [code for code, _ in ranks] == [1, 1]
    assert told["finished"].keys() == {"well"} and "not finite" in told["failed"]["ill"]
    assert not (place.root / "train" / "ill" / "work" / "state.safetensors").exists()


def test_a_mesh_of_another_size_than_the_world_is_refused(place, processes):
    ((code, told),) = processes(1, 1, place.root, "stage", specs=WIDE)
    assert code == 1
    assert "parallel asks for 4 processes, and there are 1" in told["error"]
    assert "torchrun --nproc-per-node 4 -m sae_cli train SPEC" in told["error"]


def test_an_error_that_only_rank_0_meets_ends_all(place, processes):
    """The checkpoint can't be written: its folder is a file."""
    spec = {"k": 4, "parallel": {"latent": 2}}
    out = place.root / "train" / "topk"
    out.mkdir(parents=True)
    (out / "work").write_text("in the way")
    ranks = processes(1, 2, place.root, "stage", specs={"topk": spec})
    assert [code for code, _ in ranks] == [1, 1] and "work" in ranks[0][1]["error"]


def test_a_process_that_is_killed_ends_all_and_the_next_run_ends_with_the_same_bits(
    place, tmp_path, processes
):
    """SIGKILL after 13 steps of both SAEs; the last checkpoint is that of step 4."""
    wide = {name: {**spec, "parallel": {"data": 2}} for name, spec in SPECS.items()}
    first, second = processes(2, 1, place.root, "stage", specs=wide, lives=13)
    assert second == -9
    assert first[0] == 1 and "another process of this training has ended" in first[1]["error"]
    state = place.root / "train" / "topk" / "work" / "state.safetensors"
    assert int(load_file(state)["adam.dec.step"]) == 4
    calm = bench(tmp_path / "calm")
    for root in (place.root, calm.root):
        ranks = processes(2, 1, root, "stage", specs=wide)
        assert [code for code, _ in ranks] == [0, 0]
    for name in SPECS:
        one, other = (
            root / "train" / name / "sae_weights.safetensors" for root in (place.root, calm.root)
        )
        assert one.read_bytes() == other.read_bytes()
