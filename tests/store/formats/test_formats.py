"""What each format writes it reads back, by the peer's own formula it computes the same, and what
it can't hold it refuses by name. The peers' own loaders are asked in `test_peers.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sparsecoders import D_SAE, LAYER, K, coder, inputs, ours

from sae_cli.errors import StoreError
from sae_cli.store.formats import circuit_tracer
from sae_cli.store.formats.coder import Coder
from sae_cli.store.formats.registry import FORMATS, READERS
from sae_cli.store.weights import config, save_sae

HOLDS = {
    "sparsify": [coder("topk"), coder("topk", out_site="mlp_out", skip=True)],
    "dictionary_learning": [coder("topk"), coder("relu_l1"), coder("jumprelu")],
    "qwen-scope": [coder("topk")],
    "gemma-scope": [coder("jumprelu"), coder("relu_l1")],
    "circuit-tracer": [
        coder("jumprelu", out_site="mlp_out"),
        coder("jumprelu", out_site="mlp_out", skip=True, site="resid_mid"),
    ],
}
PAIRS = [
    pytest.param(name, c, id=f"{name}-{c.arch}{'-transcoder' * c.transcodes}{i}")
    for name, coders in HOLDS.items()
    for i, c in enumerate(coders)
]


def test_every_format_is_tested():
    assert HOLDS.keys() == FORMATS.keys()


@pytest.mark.parametrize(("name", "given"), PAIRS)
def test_what_is_written_computes_the_same_by_the_peers_formula(
    name: str, given: Coder, tmp_path: Path
) -> None:
    kind = FORMATS[name]
    assert kind.refusal(given) is None
    kind.write(given, tmp_path)
    x = inputs().double()
    sae = ours(given).to(dtype=torch.float64)
    f, out = kind.apply(tmp_path, x, LAYER)
    torch.testing.assert_close(f, sae.encode(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(out, sae(x), rtol=0, atol=1e-5)
    assert torch.equal((f != 0).sum(1), (sae.encode(x) > 0).sum(1))


@pytest.mark.parametrize(("name", "given"), PAIRS)
def test_what_is_written_is_read_back(name: str, given: Coder, tmp_path: Path) -> None:
    FORMATS[name].write(given, tmp_path)
    back = FORMATS[name].read(tmp_path, LAYER)
    as_jump = name == "gemma-scope" and given.arch == "relu_l1"
    assert back.arch == ("jumprelu" if as_jump else given.arch)
    assert (back.k, back.metadata) == (given.k, given.metadata)
    expected = dict(given.tensors) | ({"threshold": torch.zeros(D_SAE)} if as_jump else {})
    assert back.tensors.keys() == expected.keys()
    for tensor, want in expected.items():
        torch.testing.assert_close(back.tensors[tensor], want, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours(back)(inputs()), ours(given)(inputs()), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "given"), PAIRS)
def test_the_same_content_gives_the_same_bytes(name: str, given: Coder, tmp_path: Path) -> None:
    for place in ("a", "b"):
        FORMATS[name].write(given, tmp_path / place / "same")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("sparsify", coder("jumprelu"), "no jumprelu SAEs"),
        ("sparsify", coder("topk", out_site="mlp_out", d_out=10), "not 24 to 10"),
        ("dictionary_learning", coder("jumprelu", out_site="mlp_out"), "no transcoders"),
        ("qwen-scope", coder("relu_l1"), "no relu_l1 SAEs"),
        ("qwen-scope", coder("topk", out_site="mlp_out"), "no transcoders"),
        ("gemma-scope", coder("topk"), "no topk SAEs"),
        ("gemma-scope", coder("jumprelu", out_site="mlp_out"), "no transcoders"),
        ("circuit-tracer", coder("jumprelu"), "transcoders alone"),
        ("circuit-tracer", coder("topk", out_site="mlp_out"), "knows no k"),
        ("circuit-tracer", coder("jumprelu", out_site="resid_post"), "not mlp_in to resid_post"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_the_reason(
    name: str, given: Coder, reason: str
) -> None:
    assert reason in str(FORMATS[name].refusal(given))


def test_a_set_has_every_layer_once() -> None:
    assert circuit_tracer.gap([2, 0, 1]) is None
    for layers in ([0, 2], [1, 2], [0, 0, 1]):
        assert str(sorted(layers)) in str(circuit_tracer.gap(layers))


def test_a_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    FORMATS["qwen-scope"].write(coder("topk"), tmp_path)
    torch.save({"W_enc": Evil()}, tmp_path / f"layer{LAYER}.sae.pt")
    with pytest.raises(StoreError, match="no file of tensors"):
        FORMATS["qwen-scope"].read(tmp_path)
    FORMATS["gemma-scope"].write(coder("jumprelu"), tmp_path)
    np.savez(tmp_path / "params.npz", W_enc=np.array([Evil()], dtype=object))
    with pytest.raises(StoreError, match="more than arrays"):
        FORMATS["gemma-scope"].read(tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_an_empty_folder_is_no_format(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=str(tmp_path)):
        READERS[name].read(tmp_path)


@pytest.mark.parametrize(("name", "given"), PAIRS)
def test_a_damaged_file_is_named(name: str, given: Coder, tmp_path: Path) -> None:
    FORMATS[name].write(given, tmp_path)
    (weights,) = (p for p in tmp_path.iterdir() if p.suffix in (".safetensors", ".pt", ".npz"))
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(StoreError, match=weights.name):
        FORMATS[name].read(tmp_path, LAYER)


def test_qwen_scope_takes_k_from_the_name_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_9"
    FORMATS["qwen-scope"].write(coder("topk"), folder)
    (folder / f"layer{LAYER}.saectl.json").unlink()
    back = FORMATS["qwen-scope"].read(folder)
    assert back.k == K
    torch.testing.assert_close(ours(back)(inputs()), ours(coder("topk"))(inputs()))
    nameless = folder.rename(tmp_path / "qwen")
    with pytest.raises(StoreError, match="does not say k"):
        FORMATS["qwen-scope"].read(nameless)


@pytest.mark.parametrize("arch", ["relu_l1", "jumprelu"])
def test_decoder_norms_are_folded_on_the_way_in(arch: str, tmp_path: Path) -> None:
    norms = torch.linspace(0.5, 4, D_SAE)
    given = coder(arch)
    scaled = {**given.tensors, "W_dec": given.tensors["W_dec"] * norms[:, None]}
    FORMATS["dictionary_learning"].write(Coder(scaled, arch, None, given.metadata), tmp_path)
    back = FORMATS["dictionary_learning"].read(tmp_path)
    torch.testing.assert_close(back.tensors["W_dec"].norm(dim=1), torch.ones(D_SAE))
    f, out = FORMATS["dictionary_learning"].apply(tmp_path, inputs())
    torch.testing.assert_close(ours(back)(inputs()), out, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(back).encode(inputs()), f * norms, rtol=1e-4, atol=1e-4)


def test_norms_that_decide_which_latents_are_largest_are_not_folded(tmp_path: Path) -> None:
    given = coder("topk")
    scaled = {
        **given.tensors,
        "W_dec": given.tensors["W_dec"] * torch.linspace(1, 2, D_SAE)[:, None],
    }
    FORMATS["sparsify"].write(Coder(scaled, "topk", K, given.metadata), tmp_path)
    with pytest.raises(StoreError, match="which k latents are the largest"):
        FORMATS["sparsify"].read(tmp_path)


@pytest.mark.parametrize("arch", ["topk", "relu_l1", "jumprelu"])
def test_an_saelens_folder_is_read(arch: str, tmp_path: Path) -> None:
    given = coder(arch)
    cfg = config(
        given.tensors, arch=arch, k=given.k, model_name="org/model",
        hook_name="blocks.3.hook_resid_post", hf_hook_name="model.layers.3", context_size=128,
        provenance={"layer": LAYER},
    )  # fmt: skip
    save_sae(tmp_path, given.tensors, cfg)
    back = READERS["saelens"].read(tmp_path)
    assert (back.arch, back.k, back.layer) == (arch, given.k, LAYER)
    torch.testing.assert_close(ours(back)(inputs()), ours(given)(inputs()))
