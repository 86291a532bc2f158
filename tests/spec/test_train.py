"""Training specs: what fits together, what a cell fills in, and what stays out of old keys."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sae_cli.spec.base import identity
from sae_cli.spec.train import ARCHITECTURES, TopKTrain


def test_fields_that_came_later_are_in_a_key_only_if_they_are_given() -> None:
    plain = identity(TopKTrain(width=64))
    later: dict[str, Any] = {
        "lr_schedule": "cosine",
        "moments_dtype": "int8",
        "ema_decay": 0.999,
        "decoder_init": "active_subspace",
        "precision": "bfloat16",
        "candidates": 16,
        "data_seed": 0,
    }
    assert not plain.keys() & later.keys()
    for name, value in later.items():
        assert identity(TopKTrain.model_validate({"width": 64, name: value})) == plain | {
            name: value
        }


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_that_falls_by_itself_refuses_another_decay(schedule: str) -> None:
    with pytest.raises(ValidationError, match="falls to zero by itself: leave lr_decay out"):
        TopKTrain.model_validate({"width": 64, "lr_schedule": schedule, "lr_decay": 0.2})
    whole = {"width": 64, "lr_schedule": schedule, "lr_warmup": 0.9}
    assert TopKTrain.model_validate(whole).lr_warmup == 0.9
    assert TopKTrain.model_validate(whole | {"lr_decay": 0.0}).lr_decay == 0.0


def test_warm_up_and_decay_share_the_steps() -> None:
    with pytest.raises(ValidationError, match="is over 1, the whole of the steps"):
        TopKTrain(width=64, lr_warmup=0.9)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_an_average_decays_by_a_share_between_zero_and_one(decay: float) -> None:
    with pytest.raises(ValidationError, match="ema_decay"):
        TopKTrain(width=64, ema_decay=decay)


def test_the_order_of_data_follows_the_seed_unless_it_has_its_own() -> None:
    assert TopKTrain(width=64, seed=3).order_seed == 3
    assert TopKTrain(width=64, seed=3, data_seed=0).order_seed == 0


def test_how_many_processes_train_is_in_no_identity() -> None:
    wide = TopKTrain.model_validate({"width": 64, "parallel": {"data": 2, "latent": 2}})
    assert wide.parallel.processes == 4 and identity(wide) == identity(TopKTrain(width=64))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_architecture_trains_in_several_processes_or_says_which_do(arch: str) -> None:
    fields = {"arch": arch, "width": 64, "parallel": {"latent": 2}}
    if arch in ("topk", "batchtopk", "matryoshka", "jumprelu", "relu_l1"):
        assert ARCHITECTURES[arch].model_validate(fields).parallel.latent == 2
        return
    with pytest.raises(ValidationError, match="parallel is for topk, batchtopk, matryoshka"):
        ARCHITECTURES[arch].model_validate(fields)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_says_how_sparse_it_is(arch: str) -> None:
    label, field = ARCHITECTURES[arch].sparsity
    assert label and field in ARCHITECTURES[arch].model_fields


def test_where_activations_fill_part_of_their_space_latents_start_in_it(sweep: Any) -> None:
    text = "name: x\nmodel: tiny\nmatrix: {layer: [1], site: [attn_out, attn_z, resid_post]}\n"
    starts = {c.site: c.train.decoder_init for c in sweep(text).cells}
    assert starts == {"attn_out": "active_subspace", "attn_z": "random", "resid_post": "random"}
    said = sweep(text, ("train.decoder_init=random",)).cells
    assert {c.train.decoder_init for c in said} == {"random"}


def test_a_matryoshkas_groups_can_be_an_axis(sweep: Any) -> None:
    text = (
        "name: x\nmodel: tiny\nmatrix:\n  layer: [1]\n  width: [64]\n"
        "  sae:\n    - {arch: matryoshka, groups: [0.25, 0.75]}\n"
        "    - {arch: matryoshka, groups: [0.5, 0.5]}\n"
    )
    ends = [c.train.group_ends() for c in sweep(text).cells]
    assert ends == [(16, 64), (32, 64)]
