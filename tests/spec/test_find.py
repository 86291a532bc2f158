"""A sweep is found by path, or by name wherever saectl runs; a misspelt name gets a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_cli.errors import SaectlError, UsageError
from sae_cli.spec.load import find, load, preset_sweep
from sae_cli.spec.presets import PRESETS, shipped_folder

SHIPPED = sorted(shipped_folder().glob("*.yaml"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, clean_home):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["tiny", "tiny.yaml", "sweeps/tiny.yaml", "sweeps/tiny"])
def test_a_shipped_sweep_is_found_from_any_folder(name):
    assert find(name) == shipped_folder() / "tiny.yaml"


def test_a_file_of_ones_own_comes_first():
    Path("sweeps").mkdir()
    Path("sweeps/tiny.yaml").write_text("name: mine\n")
    assert find("sweeps/tiny.yaml") == Path("sweeps/tiny.yaml")


@pytest.mark.parametrize("name", ["mine/tiny.yaml", "../tiny.yaml", "/sweeps/tiny.yaml"])
def test_a_path_elsewhere_never_becomes_a_shipped_sweep(name):
    with pytest.raises(UsageError, match="no such sweep file"):
        find(name)


@pytest.mark.parametrize(
    ("name", "guess"), [("tinny", "tiny"), ("sweeps/l1grid.yaml", "l1_grid"), ("qwen3-4", "qwen3")]
)
def test_a_misspelt_name_gets_a_guess_and_the_list(name, guess):
    with pytest.raises(UsageError) as caught:
        find(name)
    what, hint = caught.value.what, caught.value.hint
    assert f"{name}: no such sweep file  did you mean 'sweeps/{guess}" in what
    assert hint is not None and all(p.name in hint for p in SHIPPED)


def test_a_name_like_no_other_gets_only_the_list():
    with pytest.raises(UsageError) as caught:
        find("zzzzzz")
    assert "did you mean" not in caught.value.what


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_sweep_that_reads_that_preset(preset):
    made = load(preset_sweep(preset), model=preset)
    assert {c.model for c in made.cells} == {preset}
    assert load(preset_sweep(preset)).spec.model == preset


def test_any_other_model_has_a_sweep_too():
    assert preset_sweep("org/name") == shipped_folder() / "any_model.yaml"
    with pytest.raises(SaectlError, match=r"sizes of org/name.*give layer"):
        load(preset_sweep("org/name"), model="org/name")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_sweep_is_valid_for_a_model_whose_sizes_are_known(file):
    made = load(file, model=None if file.stem != "any_model" else "qwen3-1.7b")
    assert made.cells
    assert made.spec.name == file.stem


def test_the_reference_suite_covers_every_layer_site_and_width():
    made = load(find("qwen3-4b"))
    assert len(made.cells) == len(set(made.cells)) == 36 * 3 * 2
    assert {c.layer for c in made.cells} == set(range(36))
