"""Files of another project to a folder of ours: what it says, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sparsecoders import D_IN, D_SAE, LAYER, coder, inputs, ours
from training import Bench, bench, mixture

from sae_cli.sae.base import SAE
from sae_cli.spec.imported import ImportedSae
from sae_cli.spec.work import CacheWork, ImportWork
from sae_cli.stages import train
from sae_cli.stages.task import Task
from sae_cli.store.formats.coder import Coder
from sae_cli.store.formats.files import sae_digest
from sae_cli.store.formats.registry import FORMATS
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import open_stage, record_done
from sae_cli.store.weights import load_sae


@pytest.fixture
def place(tmp_path: Path) -> Bench:
    """Statistics of a site of D_IN dimensions, finished."""
    made = bench(tmp_path / "bench", mixture(d=D_IN))
    stage = StageDir(made.array)
    with claim(stage) as held:
        open_stage(stage, {"kind": "cache"})
        record_done(
            held, [stage.stats], {"module": f"model.layers.{LAYER}", "outlier_norm": 9.0}, 1
        )
    return made


def task(place: Bench, name: str, form: str, folder: Path, **fields: Any) -> Task:
    """An import of what lies in `folder`, in a cell of the layer and site of `sparsecoders`."""
    read = {
        "arch": "imported", "format": form, "path": str(folder), "width": D_SAE,
        "function": "topk", "k": 9, **fields,
    }  # fmt: skip
    if "digest" not in read:
        read["digest"] = sae_digest(read["format"], folder, LAYER)
    plain = place.task(name)
    capture = plain.deps["cache"]
    assert isinstance(capture.work, CacheWork)
    work = capture.work.model_copy(update={"layer": LAYER, "site": "resid_post"})
    return replace(
        plain,
        work=ImportWork(sae=ImportedSae.model_validate(read)),
        deps={**plain.deps, "cache": replace(capture, work=work)},
    )


def written(folder: Path, form: str, given: Coder) -> Path:
    FORMATS[form].write(given, folder)
    return folder


def test_an_imported_sae_computes_what_it_did(place: Bench, tmp_path: Path) -> None:
    given = coder("topk")
    one = task(place, "one", "sparsify", written(tmp_path / "s", "sparsify", given), source="o/n")
    train.run([one])
    assert place.failed == {} and place.finished["one"]["format"] == "sparsify"
    held = load_sae(one.out)
    sae = SAE.from_tensors(held.tensors, held.arch, held.k)
    x = inputs()
    torch.testing.assert_close(sae(x), ours(given)(x), rtol=0, atol=1e-4)
    metadata = held.cfg["metadata"]
    assert metadata["hook_name"] == f"blocks.{LAYER}.hook_resid_post"
    assert metadata["hf_hook_name"] == f"model.layers.{LAYER}"
    assert metadata["context_size"] == 128, "the SAE's own, not that of evaluation"
    record = metadata["saectl"]["imported"]
    assert (record["source"], record["model_name"]) == ("o/n", "org/model")
    assert "train" not in metadata["saectl"]
    assert str(tmp_path) not in json.dumps(held.cfg)


def test_what_the_files_leave_out_is_null(place: Bench, tmp_path: Path) -> None:
    folder = written(tmp_path / "s", "sparsify", coder("topk"))
    (folder / "saectl.json").unlink()
    one = task(place, "one", "sparsify", folder)
    train.run([one])
    assert place.failed == {}
    metadata = load_sae(one.out).cfg["metadata"]
    for name in ("context_size", "prepend_bos", "training_architecture", "dataset_path"):
        assert metadata[name] is None
    assert metadata["saectl"]["imported"]["model_name"] is None


def test_one_that_is_refused_leaves_the_others(place: Bench, tmp_path: Path) -> None:
    folder = written(tmp_path / "s", "sparsify", coder("topk"))
    tasks = [
        task(place, "good", "sparsify", folder),
        task(place, "width", "sparsify", folder, width=D_SAE - 8),
        task(place, "k", "sparsify", folder, k=8),
        task(place, "function", "sparsify", folder, function="jumprelu", k=None),
        task(place, "changed", "sparsify", folder, digest="0" * 64),
        task(place, "transcoder", "sparsify", folder, out_site="mlp_out"),
        task(place, "gone", "sparsify", tmp_path / "gone", digest="0" * 64),
    ]
    train.run(tasks)
    assert place.finished.keys() == {"good"}
    for name, said in {
        "width": "holds an SAE of width 96, and the sweep says 88",
        "k": "holds an SAE of k 9, and the sweep says 8",
        "function": "holds an SAE of function topk, and the sweep says jumprelu",
        "changed": "are not those that this sweep was pinned to",
        "transcoder": "is no transcoder",
        "gone": "it has no cfg.json",
    }.items():
        assert said in place.failed[name]
        assert not (place.root / "train" / name / "cfg.json").exists()


def test_one_of_other_dimensions_or_of_another_place_is_refused(
    place: Bench, tmp_path: Path
) -> None:
    other = coder("topk", layer=LAYER + 1)
    elsewhere = coder("topk", site="mlp_out")
    small = {n: t[: D_IN - 4] if n == "W_enc" else t for n, t in coder("topk").tensors.items()}
    small |= {"W_dec": torch.nn.functional.normalize(small["W_dec"][:, : D_IN - 4], dim=1)}
    small |= {"b_dec": small["b_dec"][: D_IN - 4]}
    tasks = [
        task(place, name, "sparsify", written(tmp_path / name, "sparsify", given))
        for name, given in {
            "layer": other, "site": elsewhere, "dims": replace(coder("topk"), tensors=small),
        }.items()
    ]  # fmt: skip
    train.run(tasks)
    assert place.finished == {}
    assert f"says that it is of layer {LAYER + 1}" in place.failed["layer"]
    assert f"says that it is of layer {LAYER}, mlp_out" in place.failed["site"]
    assert f"reads {D_IN - 4} dimensions, and tiny.L1.mlp_out has {D_IN}" in place.failed["dims"]


def test_a_module_that_is_not_the_sites_is_refused(place: Bench, tmp_path: Path) -> None:
    """On a model that normalises what an MLP gives, `mlp_out` is what comes after that."""
    folder = written(tmp_path / f"layers.{LAYER}.mlp", "sparsify", coder("topk", site="mlp_out"))
    (folder / "saectl.json").unlink()
    one = task(place, "one", "sparsify", folder)
    cache = one.deps["cache"]
    assert isinstance(cache.work, CacheWork)
    dep = replace(cache, work=cache.work.model_copy(update={"site": "mlp_out"}))
    stage = StageDir(place.array)
    done = json.loads(stage.done.read_text())
    for norm in ("post_feedforward_layernorm", "mlp"):
        done["summary"]["module"] = f"model.layers.{LAYER}.{norm}"
        stage.done.write_text(json.dumps(done))
        train.run([replace(one, deps={**one.deps, "cache": dep})])
        if norm != "mlp":
            assert "something comes between" in place.failed.pop("one")
    assert place.failed == {} and "one" in place.finished


def test_a_pickle_that_holds_code_is_refused_and_not_run(place: Bench, tmp_path: Path) -> None:
    folder = written(tmp_path / "d", "dictionary_learning", coder("topk"))
    torch.save({"encoder.weight": print}, folder / "ae.pt")
    train.run([task(place, "one", "dictionary_learning", folder)])
    assert "is no file of tensors" in place.failed["one"]


def test_the_layer_by_which_the_files_name_it_may_be_another(place: Bench, tmp_path: Path) -> None:
    folder = written(tmp_path / "q", "qwen-scope", coder("topk", layer=7))
    digest = sae_digest("qwen-scope", folder, 7)
    train.run([task(place, "one", "qwen-scope", folder, digest=digest, file_layer=7)])
    assert place.failed == {} and "one" in place.finished
    train.run([task(place, "two", "qwen-scope", folder, digest=digest)])
    assert "no qwen-scope folder with layer 3: it has no layer3.sae.pt" in place.failed["two"]


def test_one_of_a_model_drawn_anew_is_not_judged_on_the_trained_one(
    place: Bench, tmp_path: Path
) -> None:
    made = coder("topk")
    recorded = {**made.record, "model": {"builtin": "tiny", "reinit": 7}}
    metadata = {**made.metadata, "model_name": "tiny-random7", "saectl": recorded}
    folder = written(tmp_path / "s", "sparsify", replace(made, metadata=metadata))
    plain, own = task(place, "plain", "sparsify", folder), task(place, "own", "sparsify", folder)
    capture = own.deps["cache"]
    assert isinstance(capture.work, CacheWork)
    anew = capture.work.model.model_copy(update={"reinit": 7})
    work = capture.work.model_copy(update={"model": anew})
    own = replace(own, deps={**own.deps, "cache": replace(capture, work=work)})
    train.run([plain, own])
    assert place.finished.keys() == {"own"}
    assert "of tiny-random7, a model of weights drawn anew (reinit 7)" in place.failed["plain"]
