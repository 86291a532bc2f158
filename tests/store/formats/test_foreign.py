"""SAEs that others made, in conventions of theirs: we compute what their project computes.

What SAELens may keep unfolded is asked of SAELens itself, which is here; classes of
dictionary_learning are asked in the peers' interpreter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from safetensors.torch import save_file
from sparsecoders import D_IN, D_SAE, K, coder, inputs, ours

from sae_cli.errors import StoreError
from sae_cli.store.formats.registry import READERS

pytestmark = pytest.mark.filterwarnings("ignore")


def saelens_folder(folder: Path, kind: str, arch: str, **fields: Any) -> None:
    """A folder with decoder rows of any norm, as SAELens's own training leaves them."""
    tensors = {n: t.clone() for n, t in coder(arch).tensors.items()}
    tensors["W_dec"] *= torch.linspace(0.5, 3, D_SAE)[:, None]
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    cfg = {
        "architecture": kind, "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32",
        "device": "cpu", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "hook_name": "blocks.3.hook_resid_post"},
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(cfg | fields))


@pytest.mark.peers
@pytest.mark.parametrize("subtract", [True, False], ids=["b_dec subtracted", "not"])
@pytest.mark.parametrize(
    ("architecture", "arch", "fields"),
    [
        ("standard", "relu_l1", {}),
        ("jumprelu", "jumprelu", {}),
        ("topk", "topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ],
    ids=["standard", "jumprelu", "topk"],
)
def test_an_unfolded_saelens_folder_computes_what_saelens_computes(
    architecture: str, arch: str, fields: dict[str, Any], subtract: bool, tmp_path: Path
) -> None:
    import sae_lens

    saelens_folder(tmp_path, architecture, arch, apply_b_dec_to_input=subtract, **fields)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    read = READERS["saelens"].read(tmp_path)
    x = inputs()
    torch.testing.assert_close(ours(read)(x), theirs(x), rtol=1e-4, atol=1e-4)
    assert torch.equal((ours(read).encode(x) > 0).sum(1), (theirs.encode(x) > 0).sum(1))
    torch.testing.assert_close(read.tensors["W_dec"].norm(dim=1), torch.ones(D_SAE))
    assert read.metadata["hook_name"] == "blocks.3.hook_resid_post"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations"),
        ({"architecture": "gated"}, "nothing here computes 'gated'"),
        ({"k": K}, "which k latents are the largest"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    fields: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    saelens_folder(tmp_path, "topk", "topk", **fields)
    with pytest.raises(StoreError, match=complaint):
        READERS["saelens"].read(tmp_path)


def foreign(folder: Path, kind: str) -> None:
    """A folder of dictionary_learning whose class subtracts its bias."""
    t = coder("topk").tensors
    linear = {
        "encoder.weight": t["W_enc"].T.contiguous(),
        "encoder.bias": t["b_enc"],
        "decoder.weight": t["W_dec"].T.contiguous(),
    }
    cut = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.7)}
    state = {
        "AutoEncoder": {**linear, "bias": t["b_dec"]},
        "BatchTopKSAE": {**linear, "b_dec": t["b_dec"], **cut},
        "MatryoshkaBatchTopKSAE": {**t, **cut, "group_sizes": torch.tensor([32, D_SAE - 32])},
    }[kind]
    folder.mkdir()
    torch.save(dict(state), folder / "ae.pt")
    trainer = {"dict_class": kind, "k": K, "lm_name": "org/model", "layer": 3}
    if kind == "AutoEncoder":
        del trainer["k"]
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))


CLASSES = ("AutoEncoder", "BatchTopKSAE")


@pytest.mark.peers
def test_classes_of_dictionary_learning_compute_what_it_computes(tmp_path: Path) -> None:
    peers.needs("dictionary_learning")
    asked = peers.Peers(tmp_path)
    for kind in CLASSES:
        foreign(tmp_path / kind, kind)
        asked.ask("dictionary_learning", tmp_path / kind, inputs())
    for kind, answer in zip(CLASSES, asked.answers(), strict=True):
        read = READERS["dictionary_learning"].read(tmp_path / kind)
        assert (read.metadata["model_name"], read.layer) == ("org/model", 3)
        torch.testing.assert_close(ours(read).encode(inputs()), answer["f"], rtol=0, atol=3e-5)
        torch.testing.assert_close(ours(read)(inputs()), answer["out"], rtol=0, atol=1e-4)


def test_a_matryoshka_is_read_by_its_threshold(tmp_path: Path) -> None:
    foreign(tmp_path / "m", "MatryoshkaBatchTopKSAE")
    read = READERS["dictionary_learning"].read(tmp_path / "m")
    t, x = coder("topk").tensors, inputs()
    f = torch.relu((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    torch.testing.assert_close(ours(read).encode(x), f * (f > 0.7), rtol=0, atol=3e-5)


def test_a_threshold_that_was_never_measured_is_no_l0(tmp_path: Path) -> None:
    foreign(tmp_path / "b", "BatchTopKSAE")
    state = torch.load(tmp_path / "b" / "ae.pt", weights_only=True)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, tmp_path / "b" / "ae.pt")
    with pytest.raises(StoreError, match="never measured"):
        READERS["dictionary_learning"].read(tmp_path / "b")
