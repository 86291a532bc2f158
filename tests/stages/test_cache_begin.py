"""An array is begun once: with its outlier limit, and with nothing of an array that was there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from captures import Small, begun, small
from transformers import PreTrainedModel

from sae_cli.errors import DataError, StoreError
from sae_cli.lm import masks
from sae_cli.lm.capture import Capture
from sae_cli.lm.sites import find_tap
from sae_cli.spec.stages import MaskSpec
from sae_cli.stages.passes import Passes, outlier_limits
from sae_cli.store.acts.array import declared
from sae_cli.store.blocks import BlockReader
from sae_cli.store.layout import StageDir
from sae_cli.store.records.evict import evict
from sae_cli.store.records.ledger import former_summary
from sae_cli.store.tables.files import LocalFiles


@pytest.fixture(scope="module")
def captured(packed: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The sweep's arrays, finished. Don't change them."""
    here = small(packed, tmp_path_factory.mktemp("captured"))
    assert here.capture() == ["done", "done"]
    return here


@pytest.fixture
def again(captured: Small, tmp_path: Path) -> Small:
    """A copy of them."""
    shutil.copytree(captured.root, tmp_path, dirs_exist_ok=True)
    return Small(tmp_path)


def gone(place: Path, names: Iterable[str]) -> None:
    for name in names:
        for path in place.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_what_was_found_of_freed_rows_stays_until_they_are_made_anew(
    again: Small, captured: Small, model: PreTrainedModel
) -> None:
    places = [StageDir(again.place(stage)) for stage in again.stages]
    for place in places:
        evict(place, place.activation_data)
    assert all(place.stats.exists() for place in places)
    begun(model, again)
    assert not any(place.stats.exists() for place in places)
    assert again.capture() == ["done", "done"]
    assert again.data() == captured.data()


def test_what_is_made_anew_keeps_the_outlier_limit_that_was_found_once(
    again: Small, model: PreTrainedModel
) -> None:
    """Another machine may find another one in the last bit, and would drop other rows."""
    places = [StageDir(again.place(stage)) for stage in again.stages]
    found = [former_summary(place) for place in places]
    for place in places:
        evict(place, place.activation_data)
    limits = [array.limit for array in begun(model, again)]  # for whom there is no outlier
    assert limits == [was and was["outlier_norm"] for was in found] and None not in limits


def test_a_redo_that_is_refused_loses_nothing(again: Small, model: PreTrainedModel) -> None:
    places = [StageDir(again.place(stage)) for stage in again.stages]
    for place in places:
        other = (place.activations / "acts" / "zarr.json").read_text().replace("8192", "4096")
        evict(place, place.activation_data)
        (place.activations / "acts").mkdir(parents=True)
        (place.activations / "acts" / "zarr.json").write_text(other)
    before = [place.stats.read_bytes() for place in places]
    with pytest.raises(StoreError, match=r"acts/zarr\.json was written by another plan"):
        begun(model, again)
    assert [place.stats.read_bytes() for place in places] == before
    assert declared(LocalFiles(places[0].path)) is None


@pytest.mark.parametrize(
    "left_out",
    [
        ["activations.zarr/mask"],
        ["activations.zarr/acts/zarr.json", "activations.zarr/mask/c.1"],
        ["activations.zarr/*/c.*", "stats.safetensors"],
        ["activations.zarr", "stats.safetensors", "spec.json"],
    ],
)
def test_a_redo_that_was_killed_while_it_cleared_the_folder_goes_on(
    again: Small, captured: Small, left_out: list[str]
) -> None:
    """First that it is done goes, then its log and its group, then the rest in any order."""
    for stage in again.stages:
        gone(again.place(stage), ["done.json", "commits.jsonl", "activations.zarr/zarr.json"])
        gone(again.place(stage), left_out)
    assert again.capture() == ["done", "done"]
    assert again.data() == captured.data()


@pytest.mark.parametrize("sample", [100, 512, 600, 10**6])
def test_the_outlier_limit_is_of_exactly_so_many_tokens(
    packed: Small, model: PreTrainedModel, sample: int
) -> None:
    """A sample that is no whole number of passes is cut within one."""
    task = packed.tasks()[0]
    policy = MaskSpec(outlier_multiple=3.0, outlier_sample=sample)
    passes = Passes(BlockReader(task.deps["tokens"].path), 512)
    tap = find_tap(model, 1, "resid_post")
    norms, counts = [], []
    for b in range(passes.count):
        tokens, reasons = passes.batch(b)
        (acts,) = Capture(model, [tap])(tokens)
        norms.append(np.linalg.norm(acts.flatten(0, 1).double().numpy(), axis=1))
        counts.append(masks.keep(reasons, policy))
    kept = np.concatenate(norms)[:sample][np.concatenate(counts)[:sample]]
    assert len(kept) < min(sample, passes.rows)
    middle = np.sort(kept)[(len(kept) - 1) // 2]
    assert outlier_limits(model, [tap], passes, policy) == [pytest.approx(3 * middle, rel=1e-5)]


def test_a_sample_in_which_nothing_counts_is_named(packed: Small, model: PreTrainedModel) -> None:
    task = packed.tasks()[0]
    passes = Passes(BlockReader(task.deps["tokens"].path), 512)
    tap = find_tap(model, 1, "resid_post")
    with pytest.raises(DataError, match="drops every one of the first 1 training tokens"):
        outlier_limits(model, [tap], passes, MaskSpec(outlier_sample=1))
