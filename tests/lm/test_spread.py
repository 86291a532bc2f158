"""Models that lie on more than one device, or partly on disk, give what they give in one place."""

from __future__ import annotations

import sys

import pytest
import torch

from sae_cli.errors import ModelError
from sae_cli.lm.capture import capture
from sae_cli.lm.check import check_layer
from sae_cli.lm.device import input_device
from sae_cli.lm.load import load_model
from sae_cli.lm.sites import available_sites, find_tap
from sae_cli.lm.splice import forward_logits
from sae_cli.spec.stages import ModelSpec

CPU = torch.device("cpu")


def tiny(**more):
    return load_model(ModelSpec(builtin="tiny", dtype="float32", **more), CPU)


def every_tap(model):
    return [find_tap(model, n, s) for n in range(4) for s in available_sites(model, n)]


@pytest.fixture
def ids():
    return torch.randint(0, 700, (2, 24), generator=torch.Generator().manual_seed(1))


def same_everywhere(model, ids):
    """Every site, the check, and logits with and without an edit are those of the plain model."""
    plain = tiny()
    found, wanted = (capture(m, ids, every_tap(m)) for m in (model, plain))
    pairs = zip(found, wanted, strict=True)
    assert all(torch.equal(one.cpu(), other) for one, other in pairs)
    check_layer(model, 2)
    assert torch.equal(forward_logits(model, ids).cpu(), forward_logits(plain, ids))
    for site in ("resid_mid", "attn_z", "resid_post"):
        logits = [
            forward_logits(m, ids, tap=find_tap(m, 1, site), edit=lambda x: 0.5 * x).cpu()
            for m in (model, plain)
        ]
        assert torch.equal(*logits)


def test_a_model_spread_by_accelerate_is_the_same_model(ids):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    same_everywhere(tiny(device_map="auto"), ids)


def test_layers_that_lie_on_disk_are_read_as_they_are_needed(ids, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = tiny()
    places = {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        **{f"model.layers.{n}": "disk" if n % 2 else "cpu" for n in range(4)},
        "model.norm": "cpu",
        "lm_head": "cpu",
    }
    model = accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path))
    assert model.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    same_everywhere(model, ids)
    assert any(tmp_path.iterdir())


def test_a_model_wholly_on_disk_takes_its_ids_from_memory(ids, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = accelerate.disk_offload(tiny(), str(tmp_path), execution_device=CPU)
    assert next(model.parameters()).device.type == "meta"
    assert input_device(model) == CPU
    same_everywhere(model, ids)


def test_without_accelerate_it_says_so_and_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModelError) as caught:
        tiny(device_map="auto")
    assert "needs the package accelerate" in str(caught.value)
    assert "`pip install accelerate`" in str(caught.value)
