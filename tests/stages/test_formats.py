"""A release in other formats: what is written is compared before it counts, and what differs, or
can't be held, is told by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sparsecoders import D_IN, D_SAE, coder, inputs

from sae_cli.errors import StoreError
from sae_cli.stages.formats import ROWS, Released, compare, export, rows_like
from sae_cli.store.acts.moments import Moments
from sae_cli.store.formats import gemma_scope, sparsify
from sae_cli.store.formats.coder import Coder
from sae_cli.store.weights import config, save_sae


@pytest.fixture
def released(tmp_path: Path) -> Any:
    """released(coder, name): an SAE of a release that is being written."""

    def make(given: Coder, name: str, **sweep: Any) -> Released:
        cfg = config(
            given.tensors, arch=given.arch, k=given.k, model_name="org/model",
            hook_name=given.metadata["hook_name"], hf_hook_name="model.layers.3",
            hook_name_out=given.metadata.get("hook_name_out"), context_size=128,
            provenance=given.record,
        )  # fmt: skip
        save_sae(tmp_path / "draft" / name, given.tensors, cfg)
        stats = Moments.of(inputs(2000))
        assert given.layer is not None
        return Released(name, tmp_path / "draft" / name, given.layer, stats, sweep)

    return make


def nothing() -> None:
    return


def test_rows_have_the_mean_and_variance_of_the_statistics_and_are_seeded() -> None:
    stats = Moments.of(inputs(2000))
    x = rows_like(stats)
    assert x.shape == (ROWS, D_IN)
    assert torch.equal(x, rows_like(stats))
    assert float(((x.mean(0) - stats.mean).abs() / stats.var.sqrt()).max()) < 4 / ROWS**0.5
    torch.testing.assert_close(x.var(0), stats.var, rtol=0.4, atol=0)


def test_each_format_takes_what_it_can_hold_and_names_the_rest(
    released: Any, tmp_path: Path
) -> None:
    saes = [released(coder("topk"), "top"), released(coder("jumprelu"), "jump")]
    names = ("dictionary_learning", "gemma-scope", "qwen-scope", "sparsify")
    accounts = export(names, saes, tmp_path / "draft", nothing)
    assert {n: sorted(a.checked) for n, a in accounts.items()} == {
        "dictionary_learning": ["jump", "top"],
        "gemma-scope": ["jump"],
        "qwen-scope": ["top"],
        "sparsify": ["top"],
    }
    assert accounts["sparsify"].refused == {"jump": "sparsify has no jumprelu SAEs, only topk"}
    found = accounts["sparsify"].checked["top"]
    assert found["folder"] == "formats/sparsify/top"
    assert (found["rows"], found["l0"], found["l0_there"]) == (ROWS, 9.0, 9.0)
    assert 0 < found["max_difference"] < 1e-6, "the folded bias is rounded to float32"
    assert (tmp_path / "draft/formats/sparsify/top/sae.safetensors").is_file()


def test_a_format_that_can_hold_none_of_them_ends_the_release(
    released: Any, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"circuit-tracer can hold none .* transcoders alone"):
        export(["circuit-tracer"], [released(coder("topk"), "top")], tmp_path / "draft", nothing)


def layer(n: int, **how: Any) -> Coder:
    return coder("jumprelu", out_site="mlp_out", layer=n, seed=n, **how)


def test_transcoders_that_differ_in_their_layer_alone_are_one_set(
    released: Any, tmp_path: Path
) -> None:
    saes = [released(layer(n), f"m.L{n}.mlp_in.jumprelu", seed=0) for n in (1, 0, 2)]
    saes += [released(layer(n), f"m.L{n}.mlp_in.jumprelu.s1", seed=1) for n in (0, 2)]
    account = export(["circuit-tracer"], saes, tmp_path / "draft", nothing)["circuit-tracer"]
    folder = "formats/circuit-tracer/m.mlp_in.jumprelu"
    assert {e["folder"] for e in account.checked.values()} == {folder}
    there = {p.name for p in (tmp_path / "draft" / folder).glob("layer_*")}
    assert there == {f"layer_{n}.safetensors" for n in range(3)}
    assert account.refused.keys() == {"m.L0.mlp_in.jumprelu.s1", "m.L2.mlp_in.jumprelu.s1"}
    assert account.reasons == {
        "a circuit-tracer set has every layer from 0 on, once; these are [0, 2]": 2
    }


@pytest.mark.parametrize("tensor", ["encoder.bias", "b_dec", "W_dec"])
def test_a_file_that_computes_something_else_is_never_released(
    tensor: str, released: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer with a fault: one tensor is a thousandth off."""
    honest = sparsify.write_safetensors

    def faulty(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        honest(path, {n: t * 1.001 if n == tensor else t for n, t in tensors.items()})

    monkeypatch.setattr(sparsify, "write_safetensors", faulty)
    with pytest.raises(StoreError, match="top as sparsify would be another SAE"):
        export(["sparsify"], [released(coder("topk"), "top")], tmp_path / "draft", nothing)


def test_a_bias_that_forgot_b_dec_is_found(
    released: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Coder, "centred_bias", lambda self: self.plain("b_enc"))
    with pytest.raises(StoreError, match="other latents are active"):
        export(
            ["dictionary_learning"], [released(coder("topk"), "top")], tmp_path / "draft", nothing
        )


def test_latents_that_would_be_negative_in_qwen_scope_are_found(
    released: Any, tmp_path: Path
) -> None:
    given = coder("topk")
    low = {**given.tensors, "b_enc": given.tensors["b_enc"] - 3}
    sae = released(Coder(low, "topk", 48, given.metadata), "low")
    with pytest.raises(StoreError, match=r"low as qwen-scope .* is -\d.* there and 0 here"):
        export(["qwen-scope"], [sae], tmp_path / "draft", nothing)
    assert export(["sparsify"], [sae], tmp_path / "draft", nothing)["sparsify"].checked


def test_a_latent_on_its_boundary_may_fall_on_either_side(tmp_path: Path) -> None:
    """Thresholds that are the first row's own pre-activations, and a file in which they are one
    digit lower: rounding alone decides on that row, and on no other."""
    given, x = coder("jumprelu"), inputs().double()
    pre = x[0] @ given.exact("W_enc") + given.exact("b_enc")
    at = pre.float().clamp_min(0.01)
    low = torch.nextafter(at, torch.zeros_like(at))
    for threshold in (low, at):
        tensors = {**given.tensors, "threshold": threshold}
        edge = Coder(tensors, "jumprelu", None, given.metadata)
        if threshold is low:
            gemma_scope.write(edge, tmp_path)
    found = compare("gemma-scope", "edge", edge, x, tmp_path)
    assert found["rows_on_a_boundary"] == 1 and found["l0"] != found["l0_there"]
    gemma_scope.write(Coder({**tensors, "threshold": at * 0.99}, "jumprelu"), tmp_path)
    with pytest.raises(StoreError, match="other latents are active"):
        compare("gemma-scope", "edge", edge, x, tmp_path)


def test_half_precision_is_released_as_the_rounded_sae(released: Any, tmp_path: Path) -> None:
    given = coder("topk")
    rounded = {n: t.bfloat16() for n, t in given.tensors.items()}
    sae = released(Coder(rounded, "topk", given.k, given.metadata), "half")
    account = export(["sparsify"], [sae], tmp_path / "draft", nothing)["sparsify"]
    assert account.worst < 1e-6
    t = sparsify.read_safetensors(tmp_path / "draft/formats/sparsify/half/sae.safetensors")
    assert t["W_dec"].dtype == torch.float32 and t["W_dec"].shape == (D_SAE, D_IN)
    assert torch.equal(t["W_dec"], rounded["W_dec"].float())
