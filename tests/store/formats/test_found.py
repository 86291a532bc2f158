"""A tree of other people's folders: each SAE is found, with its format, sizes, and what is said of
its place by files or, where these are silent, by names of folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sparsecoders import D_IN, D_SAE, LAYER, K, coder

from sae_cli.store.formats.files import files_of, sae_digest
from sae_cli.store.formats.found import CLASSES, Found, search, strangers
from sae_cli.store.formats.registry import FORMATS, READERS
from sae_cli.store.formats.said import Said
from sae_cli.store.weights import config, save_sae

GIVEN = {
    "sparsify": coder("topk"),
    "dictionary_learning": coder("relu_l1"),
    "qwen-scope": coder("topk"),
    "gemma-scope": coder("jumprelu"),
    "circuit-tracer": coder("jumprelu", out_site="mlp_out", skip=True),
}


def bare(folder: Path) -> None:
    """Without our record: as another project leaves it."""
    for record in folder.rglob("*saectl*.json"):
        record.unlink()


def one(root: Path) -> Found:
    (found,) = search(root)
    return found


@pytest.mark.parametrize("form", GIVEN)
def test_what_a_format_writes_is_found_as_it_is_read(form: str, tmp_path: Path) -> None:
    FORMATS[form].write(GIVEN[form], tmp_path / "x")
    found, read = one(tmp_path), READERS[form].read(tmp_path / "x", LAYER)
    assert (found.format, found.folder, found.trouble) == (form, tmp_path / "x", None)
    assert (found.function, found.k) == (read.arch, read.k)
    assert (found.d_in, found.width) == tuple(read.tensors["W_enc"].shape)
    assert found.d_out == read.tensors["W_dec"].shape[1]
    assert (found.transcodes, found.skip) == (read.transcodes, "W_skip" in read.tensors)
    said = found.said
    assert (said.model, said.layer, said.context) == ("org/model", LAYER, 128)
    assert (said.site, said.out_site) == (
        ("mlp_in", "mlp_out") if read.transcodes else ("resid_post", None)
    )


def saelens(folder: Path, **cfg: Any) -> None:
    given = coder("jumprelu")
    made = config(
        given.tensors, arch="jumprelu", k=None, model_name="gemma-2-2b",
        hook_name="blocks.12.hook_mlp_out", hf_hook_name="", context_size=1024,
    )  # fmt: skip
    save_sae(folder, given.tensors, made)
    (folder / "cfg.json").write_text(json.dumps(made | cfg))


def test_a_saelens_folder_says_its_place(tmp_path: Path) -> None:
    saelens(tmp_path / "a" / "b")
    found = one(tmp_path)
    assert (found.format, found.function, found.width) == ("saelens", "jumprelu", D_SAE)
    assert found.said == Said(model="gemma-2-2b", layer=12, site="mlp_out", context=1024)


def test_an_old_saelens_folder_has_its_words_outside_of_metadata(tmp_path: Path) -> None:
    saelens(tmp_path, metadata=None, model_name="pythia-70m", hook_name="blocks.3.hook_resid_pre")
    assert one(tmp_path).said == Said(model="pythia-70m", layer=3, site="resid_pre")


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"architecture": "gated"}, "nothing here computes 'gated'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations: 'layer_norm'"),
    ],
)
def test_what_has_no_counterpart_is_found_with_the_reason(
    cfg: dict[str, Any], said: str, tmp_path: Path
) -> None:
    saelens(tmp_path, **cfg)
    trouble = one(tmp_path).trouble
    assert trouble is not None and said in trouble


def test_a_class_of_dictionary_learning_that_nothing_computes(tmp_path: Path) -> None:
    FORMATS["dictionary_learning"].write(coder("topk"), tmp_path)
    file = tmp_path / "config.json"
    trainer = json.loads(file.read_text())["trainer"] | {"dict_class": "GatedAutoEncoder"}
    file.write_text(json.dumps({"trainer": trainer}))
    assert "nothing here computes a GatedAutoEncoder" in str(one(tmp_path).trouble)
    assert "AutoEncoderTopK" in CLASSES


@pytest.mark.parametrize(
    ("form", "folder", "said", "k"),
    [
        ("sparsify", "sae-x/layers.5.mlp", Said(layer=5, site="mlp_out"), K),
        ("sparsify", "sae-x/layers.5", Said(layer=5, site="resid_post"), K),
        (
            "gemma-scope",
            "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82",
            Said(model="google/gemma-2-2b", layer=12, site="resid_post"),
            None,
        ),
        (
            "gemma-scope",
            "models--google--gemma-scope-9b-it-att/snapshots/0a/layer_3/width_16k/average_l0_9",
            Said(model="google/gemma-2-9b-it", layer=3, site="attn_z"),
            None,
        ),
        (
            "qwen-scope",
            "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50",
            Said(model="Qwen/Qwen3-1.7B-Base", layer=LAYER, site="resid_post"),
            50,
        ),
        (
            "qwen-scope",
            "models--Qwen--SAE-Res-Qwen3-8B-Base-W64K-L0_50/snapshots/0123abc",
            Said(model="Qwen/Qwen3-8B-Base", layer=LAYER, site="resid_post"),
            50,
        ),
        (
            "dictionary_learning",
            "trainer_3",
            Said(model="org/model", layer=LAYER, site="resid_post", context=128),
            None,
        ),
        (
            "circuit-tracer",
            "set",
            Said(model="org/model", layer=LAYER, site="mlp_in", out_site="mlp_out"),
            None,
        ),
    ],
)
def test_without_a_record_names_say_the_place(
    form: str, folder: str, said: Said, k: int | None, tmp_path: Path
) -> None:
    FORMATS[form].write(GIVEN[form], tmp_path / folder)
    bare(tmp_path)
    found = one(tmp_path)
    assert (found.said, found.k, found.trouble) == (said, k, None)
    read = READERS[form].read(found.folder, LAYER)
    assert (read.arch, read.k) == (found.function, found.k)


def test_a_transcoder_of_sparsify_reads_what_its_module_reads(tmp_path: Path) -> None:
    FORMATS["sparsify"].write(coder("topk", out_site="mlp_out"), tmp_path / "layers.2.mlp")
    bare(tmp_path)
    found = one(tmp_path)
    assert found.transcodes and found.said == Said(layer=2, site="mlp_in", out_site="mlp_out")
    assert READERS["sparsify"].read(found.folder).transcodes


def test_k_that_nobody_says_is_missed(tmp_path: Path) -> None:
    FORMATS["qwen-scope"].write(coder("topk"), tmp_path / "some")
    bare(tmp_path)
    assert "does not say k" in str(one(tmp_path).trouble)


def test_a_tree_is_found_whole_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for n in (0, 2, 10):
        FORMATS["sparsify"].write(coder("topk", layer=n), tmp_path / f"layers.{n}")
        FORMATS["qwen-scope"].write(coder("topk", layer=n), tmp_path / "q" / "r")
    FORMATS["gemma-scope"].write(coder("jumprelu"), tmp_path / ".cache" / "hidden")
    torch.save({"W": torch.zeros(2)}, tmp_path / "optimizer.pt")
    found = search(tmp_path)
    assert [(f.format, f.folder.name, f.file_layer) for f in found] == [
        ("qwen-scope", "r", 0), ("qwen-scope", "r", 2), ("qwen-scope", "r", 10),
        ("sparsify", "layers.0", None), ("sparsify", "layers.2", None),
        ("sparsify", "layers.10", None),
    ]  # fmt: skip
    assert strangers(tmp_path) == [Path("optimizer.pt")]


def test_a_damaged_file_costs_its_own_sae_alone(tmp_path: Path) -> None:
    for n in (0, 1):
        FORMATS["sparsify"].write(coder("topk", layer=n), tmp_path / f"layers.{n}")
    (tmp_path / "layers.0" / "sae.safetensors").write_bytes(b"x" * 40)
    first, second = search(tmp_path)
    assert "is damaged" in str(first.trouble) and second.trouble is None
    assert second.d_in == D_IN


def test_a_digest_is_of_the_saes_own_files(tmp_path: Path) -> None:
    for n in (0, 1):
        FORMATS["qwen-scope"].write(coder("topk", layer=n), tmp_path)
    first, second = (sae_digest("qwen-scope", tmp_path, n) for n in (0, 1))
    assert first != second
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "layer1.saectl.json").unlink()
    assert sae_digest("qwen-scope", tmp_path, 0) == first
    assert sae_digest("qwen-scope", tmp_path, 1) != second
    assert [f.name for f in files_of("qwen-scope", tmp_path, 1)] == ["layer1.sae.pt"]
