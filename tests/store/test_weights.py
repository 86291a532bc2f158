"""An SAE folder: what goes in comes out, and nothing half-right is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.store.weights import CFG, SPARSITY, WEIGHTS, config, load_sae, save_sae

D_IN, D_SAE = 6, 16
ARCHS = ["topk", "relu_l1", "jumprelu"]


def _tensors(arch: str = "topk") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    dec = torch.randn(D_SAE, D_IN, generator=generator)
    tensors = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=generator),
        "W_dec": dec / dec.norm(dim=1, keepdim=True),
        "b_enc": torch.randn(D_SAE, generator=generator),
        "b_dec": torch.randn(D_IN, generator=generator),
    }
    if arch == "jumprelu":
        tensors["threshold"] = torch.rand(D_SAE, generator=generator)
    return tensors


def _config(tensors: dict[str, Tensor], arch: str = "topk", **fields: Any) -> dict[str, Any]:
    return config(
        tensors, arch=arch, k=4 if arch == "topk" else None, model_name="org/model",
        hook_name="blocks.2.hook_resid_post", hf_hook_name="model.layers.2", context_size=128,
        **fields,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "sae"
    save_sae(path, _tensors(), _config(_tensors()))
    return path


@pytest.mark.parametrize("arch", ARCHS)
def test_what_is_written_is_read_back(arch: str, tmp_path: Path) -> None:
    tensors, density = _tensors(arch), torch.linspace(0, 1, D_SAE)
    cfg = _config(tensors, arch, l0=3.5, num_dead_features=1, provenance={"train_key": "0123abcd"})
    written = save_sae(tmp_path / "sae", tensors, cfg, density)
    assert sorted(p.name for p in written) == sorted([CFG, WEIGHTS, SPARSITY])
    assert sorted((tmp_path / "sae").iterdir()) == sorted(written), "nothing else is left behind"
    held = load_sae(tmp_path / "sae")
    assert (held.arch, held.k) == (arch, 4 if arch == "topk" else None)
    assert held.tensors.keys() == tensors.keys()
    assert all(torch.equal(held.tensors[n], tensors[n]) for n in tensors)
    assert held.density is not None
    torch.testing.assert_close(held.density, density, rtol=1e-5, atol=1e-9)
    metadata = held.cfg["metadata"]
    assert metadata["saectl"] == {"arch": arch, "train_key": "0123abcd"}
    assert (metadata["l0"], metadata["num_dead_features"]) == (3.5, 1)


def test_unknown_figures_are_left_out_and_not_written_as_zero(folder: Path) -> None:
    held = load_sae(folder)
    assert held.density is None and not (folder / SPARSITY).exists()
    assert "l0" not in held.cfg["metadata"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {n: t.to(dtype) for n, t in _tensors("jumprelu").items()}
    save_sae(tmp_path, tensors, _config(tensors, "jumprelu"))
    held = load_sae(tmp_path)
    assert all(t.dtype == dtype for t in held.tensors.values())


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = _tensors("jumprelu")
    backwards = dict(reversed(tensors.items()))
    for name, given in (("a", tensors), ("b", backwards)):
        save_sae(tmp_path / name, given, _config(given, "jumprelu"), torch.full((D_SAE,), 0.1))
    for file in (CFG, WEIGHTS, SPARSITY):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_view_is_written_as_its_content(tmp_path: Path) -> None:
    tensors = _tensors()
    tensors["W_enc"] = tensors["W_enc"].T.contiguous().T
    save_sae(tmp_path, tensors, _config(tensors))
    assert torch.equal(load_sae(tmp_path).tensors["W_enc"], tensors["W_enc"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"apply_b_dec_to_input": True}, "apply_b_dec_to_input"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations"),
        ({"architecture": "gated"}, "unknown architecture 'gated'"),
        ({"architecture": "jumprelu"}, "jumprelu has .*threshold"),
        ({"d_in": 7}, r"says float32 \(7"),
        ({"dtype": "float16"}, "says float16"),
        ({"k": None}, "k: None"),
        ({"k": D_SAE + 1}, "number of active latents"),
    ],
)
def test_a_cfg_that_contradicts_the_weights_or_our_conventions_is_refused(
    folder: Path, change: dict[str, Any], complaint: str
) -> None:
    cfg = json.loads((folder / CFG).read_text())
    (folder / CFG).write_text(json.dumps(cfg | change))
    with pytest.raises(StoreError, match=complaint) as caught:
        load_sae(folder)
    assert str(folder) in str(caught.value)
    with pytest.raises(StoreError, match=complaint):
        save_sae(folder, _tensors(), cfg | change)


@pytest.mark.parametrize("name", ["architecture", "d_in", "d_sae", "dtype"])
def test_a_cfg_that_lacks_a_field_is_refused(folder: Path, name: str) -> None:
    cfg = json.loads((folder / CFG).read_text())
    del cfg[name]
    (folder / CFG).write_text(json.dumps(cfg))
    with pytest.raises(StoreError, match=f"lacks '{name}'"):
        load_sae(folder)


def test_decoder_rows_that_are_not_folded_are_refused(tmp_path: Path) -> None:
    tensors = _tensors()
    tensors["W_dec"] = tensors["W_dec"] * 1.01
    with pytest.raises(StoreError, match=r"off unit norm by up to 0\.01"):
        save_sae(tmp_path, tensors, _config(tensors))


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = _tensors()
    tensors["b_enc"][3] = float("nan")
    with pytest.raises(StoreError, match="b_enc holds numbers that are not finite"):
        save_sae(tmp_path, tensors, _config(tensors))
    assert not (tmp_path / CFG).exists()


def test_a_missing_or_damaged_file_is_named(folder: Path) -> None:
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(StoreError, match=rf"{WEIGHTS} is damaged"):
        load_sae(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(StoreError, match=rf"{WEIGHTS} is missing"):
        load_sae(folder)
    (folder / CFG).write_text("{")
    with pytest.raises(StoreError, match=rf"{CFG} is damaged"):
        load_sae(folder)
    (folder / CFG).unlink()
    with pytest.raises(StoreError, match=f"no {CFG}"):
        load_sae(folder)


def test_a_density_of_another_width_is_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match="density has shape"):
        save_sae(folder, _tensors(), _config(_tensors()), torch.ones(3))
    save_file({"sparsity": torch.ones(3)}, folder / SPARSITY)
    with pytest.raises(StoreError, match="one number for each latent"):
        load_sae(folder)


def test_attention_heads_are_marked_for_loaders_that_see_them_apart() -> None:
    tensors = _tensors()
    cfg = config(
        tensors, arch="topk", k=4, model_name="m", hook_name="blocks.0.attn.hook_z",
        hf_hook_name="model.layers.0.self_attn.o_proj", context_size=8,
    )  # fmt: skip
    assert cfg["reshape_activations"] == "hook_z"
