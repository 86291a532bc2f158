"""An SAE folder in SAEBench's `BaseSAE`: the same function as ours."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sae_cli.sae.base import SAE
from sae_cli.store.weights import config, save_sae

FILE = Path(__file__).parents[2] / "bench" / "saebench.py"
D_IN, D_SAE = 12, 40


@pytest.fixture(scope="module")
def adapter():
    spec = importlib.util.spec_from_file_location("saebench_adapter", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # imports nothing of saectl and nothing of SAEBench
    return module.adapter


class Base(torch.nn.Module):
    """What `BaseSAE` of sae-bench 0.6.0 gives a subclass, by its list of attributes."""

    def __init__(self, d_in, d_sae, model_name, hook_layer, device, dtype, hook_name=None):
        super().__init__()
        shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,)}
        for name, shape in {**shapes, "b_dec": (d_in,)}.items():
            setattr(self, name, torch.nn.Parameter(torch.zeros(shape)))
        self.cfg = SimpleNamespace(
            model_name=model_name, hook_layer=hook_layer, hook_name=hook_name
        )


def bases():
    if importlib.util.find_spec("sae_bench") is None:
        return [Base]
    from sae_bench.custom_saes.base_sae import BaseSAE

    return [Base, BaseSAE]


def folder(path, arch):
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN), dim=1)
    tensors = {
        "W_enc": rows.T.clone(), "W_dec": rows, "b_enc": 0.1 * torch.randn(D_SAE),
        "b_dec": torch.randn(D_IN),
    }  # fmt: skip
    if arch == "jumprelu":
        tensors["threshold"] = 0.3 + torch.rand(D_SAE)
    k = 5 if arch == "topk" else None
    cfg = config(
        tensors, arch=arch, k=k, model_name="org/model", hook_name="blocks.3.hook_mlp_out",
        hf_hook_name="model.layers.3.mlp", context_size=64,
    )  # fmt: skip
    save_sae(path, tensors, cfg)
    return SAE.from_tensors(tensors, arch, k)


@pytest.mark.parametrize("arch", ["topk", "relu_l1", "jumprelu"])
@pytest.mark.parametrize("base", bases(), ids=lambda b: b.__module__.split(".")[0])
def test_it_codes_as_ours_does(adapter, tmp_path, base, arch):
    ours = folder(tmp_path, arch)
    theirs = adapter(base)(tmp_path, torch.device("cpu"), torch.float32)
    x = torch.randn(2, 7, D_IN)
    f = theirs.encode(x)
    torch.testing.assert_close(f, ours.encode(x))
    torch.testing.assert_close(theirs(x), ours(x))
    torch.testing.assert_close(theirs.decode(f), ours(x))
    assert 0 < (f != 0).sum(-1).float().mean() < D_SAE
    assert theirs.W_enc.shape == (D_IN, D_SAE) and theirs.W_dec.shape == (D_SAE, D_IN)
    assert (theirs.cfg.model_name, theirs.cfg.hook_layer) == ("org/model", 3)
    assert theirs.cfg.hook_name == "blocks.3.hook_mlp_out" and theirs.cfg.context_size == 64


def test_a_local_model_takes_the_place_of_the_name_that_the_folder_knows(adapter, tmp_path):
    folder(tmp_path, "topk")
    sae = adapter(Base)(tmp_path, torch.device("cpu"), torch.float32, "./model")
    assert sae.cfg.model_name == "./model"
