"""Which SAE a word means, and which model and limit go with it; what is ambiguous or unknown is
told with what there is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from handmade import own, write_sae
from studying import QUICK, Studied

from sae_cli.cli.named import by_model, named_sae, named_saes
from sae_cli.cli.session import remember
from sae_cli.errors import StoreError, UsageError
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.ledger import read_done

SLUG = "tiny.L2.resid_post.topk.w64.k"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    """A workspace with two SAEs. Don't change it."""
    found = Studied(tmp_path_factory.mktemp("named"), *QUICK, "matrix.k=[4, 8]")
    remember(found.graph, found.workspace)
    return found


def folder(studied: Studied, k: int) -> Path:
    (found,) = (studied.workspace.root / "train").glob(f"*.k{k}.lr*")
    return found


@pytest.mark.parametrize("form", ["slug", "name", "key", "start of the key", "folder"])
def test_an_sae_of_the_workspace_is_found_by_whatever_names_it(studied: Studied, form: str) -> None:
    place = folder(studied, 8)
    key = place.name.rpartition("-")[2]
    word = {
        "slug": place.name.rpartition("-")[0], "name": place.name, "key": key,
        "start of the key": key[:5], "folder": str(place),
    }[form]  # fmt: skip
    elsewhere = Workspace(place / "none") if form == "folder" else studied.workspace
    found = named_sae(word, elsewhere)
    (cache,) = (studied.workspace.root / "cache").iterdir()
    done = read_done(StageDir(cache))
    assert done is not None
    assert (found.name, found.folder.resolve()) == (place.name, place.resolve())
    assert found.model.builtin == "tiny" and found.own["layer"] == 2
    assert found.limit == done.summary["outlier_norm"] > 0 and not found.limit_unknown


def test_the_start_of_a_name_is_enough_where_it_means_one(studied: Studied) -> None:
    with pytest.raises(UsageError) as caught:
        named_sae("tiny.L2", studied.workspace)
    assert "means more than one SAE, name one" in str(caught.value)
    for k in (4, 8):
        assert folder(studied, k).name in str(caught.value)
        assert named_sae(f"{SLUG}{k}", studied.workspace).name == folder(studied, k).name


def test_without_a_name_all_are_meant_and_a_workspaces_folder_means_the_same(
    studied: Studied,
) -> None:
    names = {folder(studied, k).name for k in (4, 8)}
    every = named_saes(None, studied.workspace)
    assert {each.name for each in every} == names
    there = named_saes(str(studied.workspace.root), Workspace(Path("nowhere")))
    assert {each.name for each in there} == names
    assert by_model(every) == [every]


def test_an_unknown_name_is_told_with_one_like_it(studied: Studied) -> None:
    with pytest.raises(UsageError, match=rf"did you mean '{SLUG}8.lr0.002'") as caught:
        named_sae(f"{SLUG}8.lr0.003", studied.workspace)
    assert "saectl ls train" in str(caught.value)


def test_where_nothing_is_trained_the_answer_says_what_to_type(tmp_path: Path) -> None:
    for name in (None, "anything"):
        with pytest.raises(UsageError, match=r"saectl run sweeps/tiny\.yaml"):
            named_saes(name, Workspace(tmp_path))


def test_a_folder_that_holds_nothing_of_the_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no SAE"):
        named_saes(str(tmp_path), Workspace(tmp_path / "none"))


def test_a_copied_folder_has_its_record_alone(studied: Studied, tmp_path: Path) -> None:
    copy = shutil.copytree(folder(studied, 4), tmp_path / "copy")
    here = Workspace(tmp_path / "none")
    found = named_sae(str(copy), here)
    assert (found.name, found.limit, found.limit_unknown) == ("copy", None, True)
    (copy / "metrics.json").write_text(json.dumps({"outlier_norm": 12.5}))
    found = named_sae(str(copy), here)
    assert (found.limit, found.limit_unknown) == (12.5, False)
    assert found.model.builtin == "tiny"


def test_a_mask_without_outliers_needs_no_limit(tmp_path: Path) -> None:
    made = write_sae(tmp_path / "sae", own(mask={"outlier_multiple": None}))
    assert not named_sae(str(made), Workspace(tmp_path)).limit_unknown


def test_the_limit_of_a_transcoder_is_not_that_of_what_it_predicts(tmp_path: Path) -> None:
    record = own(site="mlp_in", out_site="mlp_out")
    made = write_sae(tmp_path / "sae", record, arch="jumprelu")
    (made / "metrics.json").write_text(json.dumps({"outlier_norm": 12.5}))
    found = named_sae(str(made), Workspace(tmp_path))
    assert found.limit is None and found.limit_unknown


def test_a_release_means_all_its_saes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_sae(tmp_path / name, own())
    manifest = {"suite": "s", "key": "k", "saectl": "0", "files": {}, "saes": ["one", "two"]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    found = named_saes(str(tmp_path), Workspace(tmp_path))
    assert [each.name for each in found] == ["one", "two"]
    with pytest.raises(UsageError, match=f"{tmp_path}/two"):
        named_sae(str(tmp_path), Workspace(tmp_path))


@pytest.mark.parametrize(
    "cfg",
    [
        {},
        {"metadata": None},
        [],
        {"metadata": {"saectl": {"model": {}, "layer": 1, "site": "x"}}},
        {"metadata": {"saectl": {"model": {}, "layer": 1, "site": "x", "mask": {"foo": 1}}}},
    ],
)
def test_a_folder_of_another_program_is_refused(tmp_path: Path, cfg: Any) -> None:
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(StoreError, match="no SAE that saectl wrote"):
        named_sae(str(tmp_path), Workspace(tmp_path))


@pytest.mark.parametrize("model", [{"builtin": "big"}, {"builtin": 5, "digest": None}, 7])
def test_a_record_of_a_model_that_can_not_be_is_refused(tmp_path: Path, model: Any) -> None:
    made = write_sae(tmp_path / "sae", own(model=model))
    with pytest.raises((StoreError, UsageError), match=r"names no model|another one"):
        named_sae(str(made), Workspace(tmp_path))


def test_no_code_that_a_record_names_is_run(tmp_path: Path) -> None:
    record = own()
    made = write_sae(tmp_path / "sae", record | {"model": {**record["model"], "hf": "a/b",
        "builtin": None, "trust_remote_code": True}})  # fmt: skip
    with pytest.raises(UsageError, match="code of its own"):
        named_sae(str(made), Workspace(tmp_path))


def test_a_model_in_a_folder_has_to_be_the_one_that_was_read(tmp_path: Path) -> None:
    from sae_cli.lm.tiny import folder as tiny

    local = shutil.copytree(tiny(), tmp_path / "model")
    studied = Studied(tmp_path, *QUICK, f"model={local}")
    remember(studied.graph, studied.workspace)
    (place,) = (p for p in (studied.workspace.root / "train").iterdir() if p.is_dir())
    name = place.name
    assert named_sae(name, studied.workspace).model.path == str(local)
    moved = shutil.move(local, tmp_path / "moved")
    with pytest.raises(UsageError, match="--model PATH"):
        named_sae(str(place), studied.workspace)
    assert named_sae(str(place), studied.workspace, str(moved)).model.path == str(moved)
    shutil.copytree(moved, local)
    (local / "config.json").write_text((local / "config.json").read_text() + "\n")
    with pytest.raises(StoreError, match="have changed"):
        named_sae(name, studied.workspace)
    with pytest.raises(UsageError, match="its digest is another"):
        named_sae(name, studied.workspace, str(local))
