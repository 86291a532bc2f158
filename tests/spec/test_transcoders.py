"""What a spec may say of transcoders, and what it is told otherwise."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sae_cli.spec.base import identity
from sae_cli.spec.matrix import expand
from sae_cli.spec.presets import PRESETS
from sae_cli.spec.problems import SpecProblems
from sae_cli.spec.sweep import SweepSpec
from sae_cli.spec.train import ARCHITECTURES, TopKTrain


def _cells(site: str, **train: object) -> object:
    spec = {"name": "x", "model": "tiny", "train": train, "matrix": {"layer": [1], "site": [site]}}
    return expand(SweepSpec.model_validate(spec), lambda *_: PRESETS["tiny"].facts)


def test_an_saes_identity_does_not_know_of_them() -> None:
    assert not {"out_site", "skip"} & identity(TopKTrain(width=8)).keys()
    told = identity(TopKTrain(width=8, out_site="mlp_out", skip=True))
    assert (told["out_site"], told["skip"]) == ("mlp_out", True)


def test_a_skip_needs_a_site_to_lead_to() -> None:
    with pytest.raises(ValidationError, match="give out_site"):
        TopKTrain(width=8, skip=True)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_three_architectures_transcode_and_the_others_say_so(arch: str) -> None:
    if arch in ("topk", "batchtopk", "jumprelu"):
        assert _cells("mlp_in", arch=arch, out_site="mlp_out")
        return
    with pytest.raises(SpecProblems) as caught:
        _cells("mlp_in", arch=arch, out_site="mlp_out")
    assert "out_site is a field of topk, batchtopk, jumprelu" in caught.value.problems[0].what


@pytest.mark.parametrize(
    ("site", "out", "said"),
    [
        ("mlp_out", "mlp_out", "does not lie behind mlp_out"),
        ("mlp_out", "mlp_in", "does not lie behind mlp_out"),
    ],
)
def test_it_predicts_a_later_site(site: str, out: str, said: str) -> None:
    with pytest.raises(SpecProblems) as caught:
        _cells(site, out_site=out)
    assert said in caught.value.problems[0].what
