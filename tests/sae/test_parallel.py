"""Several processes train what one trains: the same curve, the same choices, one checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sae_cli.sae.mesh import Mesh

MESHES = [(1, 2), (2, 1), (2, 2), (1, 4)]
each_mesh = pytest.mark.parametrize("mesh", MESHES, ids=lambda m: f"data {m[0]} latent {m[1]}")
REVIVED = {"dead_after": 128, "auxk": 8}
SPECS: dict[str, dict[str, Any]] = {
    "topk": {"arch": "topk", "k": 2, **REVIVED, "ema_decay": 0.9},
    "topk, more than a shard": {"arch": "topk", "k": 20, "decoder_init": "active_subspace"},
    "topk, bfloat16": {
        "arch": "topk", "k": 2, "width": 256, "precision": "bfloat16", "moments_dtype": "bfloat16",
    },
    "topk, int8": {"arch": "topk", "k": 4, "moments_dtype": "int8"},
    "batchtopk": {"arch": "batchtopk", "k": 3, **REVIVED},
    "matryoshka": {"arch": "matryoshka", "k": 3, **REVIVED},
    "jumprelu": {"arch": "jumprelu", "l0": 4},
    "jumprelu, sparse": {
        "arch": "jumprelu", "l0": 0.5, "bandwidth": 0.1, "threshold_init": 2.5,
    },
    "relu_l1": {"arch": "relu_l1", "l1": 1.0},
}  # fmt: skip
Processes = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> tuple[Path, Any]:
    """The folder and the curves of a single process."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, processes(1, 1, folder, "curve", specs=SPECS)[0]


def assert_near(found: Path, wanted: Path, name: str, tolerance: float) -> None:
    ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (found, wanted))
    assert ours.keys() == theirs.keys()
    for part, tensor in theirs.items():
        assert (ours[part].dtype, ours[part].shape) == (tensor.dtype, tensor.shape), part
        if tensor.is_floating_point() and "adam" not in part:
            torch.testing.assert_close(ours[part], tensor, rtol=0.0, atol=tolerance, msg=part)
        elif part == "since_fired":
            assert torch.equal(ours[part], tensor)


@each_mesh
def test_the_curve_and_the_weights_are_those_of_one_process(
    mesh: tuple[int, int], alone: tuple[Path, Any], tmp_path: Path, processes: Processes
) -> None:
    """Every number of the log, at every step, in every rank. Rounding alone may differ; where
    moments are rounded by dice, a last bit may fall the other way."""
    folder, wanted = alone
    ranks = processes(*mesh, tmp_path, "curve", specs=SPECS)
    assert all(rank == ranks[0] for rank in ranks), "every rank sees the same numbers"
    for name, steps in wanted.items():
        narrow = "moments_dtype" in SPECS[name]
        assert len(ranks[0][name]) == len(steps) == 8
        for found, numbers in zip(ranks[0][name], steps, strict=True):
            assert found.keys() == numbers.keys(), name
            for what in numbers.keys() - {"at_edge", "sparse"}:
                near = 1e-3 if narrow else 3e-5
                assert math.isclose(found[what], numbers[what], rel_tol=near, abs_tol=1e-6), (
                    name, what,
                )  # fmt: skip
        assert_near(tmp_path, folder, name, 1e-2 if narrow else 2e-3)


def test_dead_latents_are_revived_in_these_tests(alone: tuple[Path, Any]) -> None:
    for name in ("topk", "batchtopk", "matryoshka"):
        assert sum("aux_loss" in line for line in alone[1][name]) > 2


@each_mesh
@pytest.mark.parametrize("guess", [0.0, 100.0])
def test_equal_values_go_to_the_same_latents(
    mesh: tuple[int, int], guess: float, tmp_path: Path, processes: Processes
) -> None:
    """Row by row and over a batch, whatever the cut is looked for from."""
    order = {"seed": 7, "k": 5, "guess": guess}
    ((rows, batch, cut),) = processes(1, 1, tmp_path, "ties", **order)
    ranks = processes(*mesh, tmp_path, "ties", **order)
    assert sorted(map(tuple, rows)) == sorted(tuple(e) for rank in ranks for e in rank[0])
    assert sorted(map(tuple, batch)) == sorted(tuple(e) for rank in ranks for e in rank[1])
    assert len(batch) == 5 * 64 and all(rank[2] == cut for rank in ranks)
    by_row = [value for row, _, value in rows if row == 0]
    assert sum(value == cut for _, _, value in batch) > 1 and len(set(by_row)) < len(by_row)


@pytest.mark.parametrize(("first", "then"), [((2, 2), (1, 1)), ((1, 1), (2, 2)), ((1, 2), (2, 1))])
def test_a_checkpoint_goes_on_in_another_mesh(
    first: tuple[int, int],
    then: tuple[int, int],
    alone: tuple[Path, Any],
    tmp_path: Path,
    processes: Processes,
) -> None:
    folder, wanted = alone
    specs = {name: SPECS[name] for name in ("topk", "batchtopk", "jumprelu")}
    processes(*first, tmp_path, "curve", specs=specs, stop=4)
    found = processes(*then, tmp_path, "curve", specs=specs, start=4)[0]
    for name in specs:
        for now, numbers in zip(found[name], wanted[name][4:], strict=True):
            assert math.isclose(now["loss"], numbers["loss"], rel_tol=3e-5), name
        assert_near(tmp_path, folder, name, 2e-3)


@each_mesh
def test_a_number_that_is_not_finite_in_one_process_ends_all_alike(
    mesh: tuple[int, int], tmp_path: Path, processes: Processes
) -> None:
    ranks = processes(*mesh, tmp_path, "broken", spec=SPECS["topk"])
    said, steps, part = ranks[0]
    assert "is nan at step 3 of 8 (topk)" in said and steps == 3 and part == "param.dec"
    assert all(rank == ranks[0] for rank in ranks)


def test_a_single_process_is_a_mesh_that_does_nothing() -> None:
    mesh, z = Mesh(), torch.randn(6, 3)
    for same in (mesh.sum_data, mesh.sum_latent, mesh.sum_all, mesh.once, mesh.gather_all):
        assert same(z) is z
    assert mesh.whole("enc", z) is z
    assert torch.equal(mesh.rows(z), z) and torch.equal(mesh.own("enc", z), z)
    assert mesh.leads and mesh.processes == 1 and mesh.any(False) is False
