"""What a sweep may say of an SAE that another project trained, and what it is told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_cli.errors import SpecError
from sae_cli.spec.base import identity
from sae_cli.spec.imported import ImportedSae, stored
from sae_cli.spec.train_base import TrainBase

DIGEST = "0123456789abcdef" * 4
CELL = (
    "{layer: 1, site: resid_post, arch: imported, format: sparsify, path: gone, width: 60, "
    f"function: topk, k: 8, digest: {DIGEST}}}"
)


def text(cell: str = CELL, train: str = "{}") -> str:
    return f"name: x\nmodel: tiny\ntrain: {train}\nmatrix:\n  include:\n    - {cell}\n"


def test_it_has_no_field_of_a_training_but_what_the_files_say() -> None:
    assert set(ImportedSae.model_fields) & set(TrainBase.model_fields) == {"width"}


@pytest.mark.parametrize("field", ["lr: 1e-3", "num_tokens: 4096", "seed: 1", "kernels: torch"])
def test_a_field_of_a_training_is_refused_wherever_it_stands(sweep: Any, field: str) -> None:
    name = field.partition(":")[0]
    for spec in (text(CELL.replace("k: 8", f"k: 8, {field}")), text(train=f"{{{field}}}")):
        with pytest.raises(SpecError, match=f"{name} is a field of .*, not of imported"):
            sweep(spec)


def test_a_training_has_no_field_of_an_import(sweep: Any) -> None:
    spec = "name: x\nmodel: tiny\nmatrix:\n  layer: [1]\n  sae: [{arch: topk, path: theirs}]\n"
    with pytest.raises(SpecError, match="path is a field of imported, not of topk"):
        sweep(spec)


def test_files_of_a_digest_may_be_gone_and_others_may_not(sweep: Any, tmp_path: Path) -> None:
    (cell,) = sweep(text()).cells
    assert (cell.train.width, cell.train.k, stored(cell.train)) == (60, 8, "topk")
    unpinned = CELL.replace(f", digest: {DIGEST}", "")
    with pytest.raises(SpecError, match="there is no folder gone"):
        sweep(text(unpinned))
    (tmp_path / "there").mkdir()
    assert sweep(text(unpinned.replace("gone", str(tmp_path / "there")))).cells


@pytest.mark.parametrize(
    ("given", "instead", "said"),
    [
        ("k: 8", "skip: false", "function topk has no k"),
        ("function: topk", "function: jumprelu", "function jumprelu has k 8"),
        ("k: 8", "k: 99", "k = 99 is more than the width, 60"),
        ("k: 8", "k: 8, skip: true", "skip is for a transcoder"),
        ("width: 60, ", "", "'width' is missing"),
        ("width: 60", "expansion: 2", "expansion is a field of .*, not of imported"),
        ("format: sparsify", "format: sparsfy", "did you mean 'sparsify'"),
        ("k: 8", "k: 8, out_site: resid_pre", "does not lie behind resid_post"),
        ("k: 8", "k: 8, label: a/b", "'a/b' is not 1 to 48 of"),
        (DIGEST, "abc", "'abc' is not a sha256"),
    ],
)
def test_what_does_not_fit_is_told(sweep: Any, given: str, instead: str, said: str) -> None:
    assert given in CELL
    with pytest.raises(SpecError, match=said):
        sweep(text(CELL.replace(given, instead)))


def test_its_identity_knows_its_digest_and_no_path(sweep: Any) -> None:
    (cell,) = sweep(text()).cells
    (moved,) = sweep(text(CELL.replace("gone", "elsewhere"))).cells
    assert identity(cell.train) == identity(moved.train)
    (other,) = sweep(text(CELL.replace("0123", "3210"))).cells
    assert identity(cell.train) != identity(other.train)


def test_a_folder_of_many_layers_is_one_line(sweep: Any, tmp_path: Path) -> None:
    spec = (
        "name: x\nmodel: tiny\n"
        f"train: {{arch: imported, format: qwen-scope, path: {tmp_path}, width: 64, "
        "function: topk, k: 8}\nmatrix: {layer: all, site: [resid_post]}\n"
    )
    assert [(c.layer, c.train.layer(c.layer)) for c in sweep(spec).cells] == [
        (n, n) for n in range(4)
    ]
