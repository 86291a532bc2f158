"""torch.compile in fixed pieces: hooks fire, and the bits don't depend on what is tapped."""

from __future__ import annotations

import shutil

import pytest
import torch

from sae_cli.errors import ModelError
from sae_cli.lm.capture import capture
from sae_cli.lm.check import check_layer
from sae_cli.lm.load import load_model
from sae_cli.lm.sites import available_sites, find_tap
from sae_cli.lm.splice import forward_logits
from sae_cli.spec.stages import ModelSpec

CPU = torch.device("cpu")
compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here"
)


def tiny(**more):
    return load_model(ModelSpec(builtin="tiny", dtype="float32", **more), CPU)


def every_tap(model):
    return [find_tap(model, n, s) for n in range(4) for s in available_sites(model, n)]


@pytest.mark.slow
@compiler
def test_a_compiled_model_gives_every_site_the_same_bits_in_any_company(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._dynamo.utils import counters

    limits = torch._dynamo.config.recompile_limit, torch._dynamo.config.fail_on_recompile_limit_hit
    counters.clear()
    try:
        plain, model = tiny(), tiny(compile=True)
        blocks = torch.randint(0, 700, (2, 32), generator=torch.Generator().manual_seed(0))
        check_layer(model, 1)
        wanted = capture(plain, blocks, every_tap(plain))
        made = counters["stats"]["unique_graphs"]
        together = capture(model, blocks, every_tap(model))
        first = counters["stats"]["unique_graphs"]
        assert made > 0, "the check was compiled"
        for tap, found, expected in zip(every_tap(model), together, wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            (alone,) = capture(model, blocks, [tap])
            assert torch.equal(alone, found), tap.name
        assert counters["stats"]["unique_graphs"] == first, "no tap compiles anything anew"

        zeroed = find_tap(model, 2, "attn_z")
        logits = forward_logits(model, blocks, tap=zeroed, edit=torch.zeros_like)
        same = forward_logits(
            plain, blocks, tap=find_tap(plain, 2, "attn_z"), edit=torch.zeros_like
        )
        torch.testing.assert_close(logits, same, rtol=1e-3, atol=1e-3)
        assert (logits - forward_logits(model, blocks)).abs().max() > 0.1
    finally:
        torch._dynamo.reset()
        config = torch._dynamo.config
        config.recompile_limit, config.fail_on_recompile_limit_hit = limits


def test_without_a_compiler_it_says_so_before_anything_runs(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ModelError) as caught:
        tiny(compile=True)
    assert "there is no no-such-compiler (from CXX)" in str(caught.value)
    assert "leave `model.compile` out" in str(caught.value)
