"""SAELens loads our folders and computes what we compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_cli.sae.base import SAE
from sae_cli.store.weights import config, save_sae

D_IN, D_SAE = 24, 96


def _ours(arch: str) -> SAE:
    generator = torch.Generator().manual_seed(0)
    dec = torch.randn(D_SAE, D_IN, generator=generator)
    tensors = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=generator) / 5,
        "W_dec": dec / dec.norm(dim=1, keepdim=True),
        "b_enc": torch.randn(D_SAE, generator=generator) / 5,
        "b_dec": torch.randn(D_IN, generator=generator),
    }
    if arch == "jumprelu":
        tensors["threshold"] = torch.rand(D_SAE, generator=generator)
    return SAE.from_tensors(tensors, arch, 9 if arch == "topk" else None)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arch", ["topk", "relu_l1", "jumprelu"])
def test_saelens_computes_the_same_latents_and_reconstructions(arch: str, tmp_path: Path) -> None:
    import sae_lens

    ours = _ours(arch)
    cfg = config(
        ours.tensors(), arch=arch, k=ours.k, model_name="org/model",
        hook_name="blocks.2.hook_resid_post", hf_hook_name="model.layers.2", context_size=128,
        l0=9.0, provenance={"train_key": "0123abcd"},
    )  # fmt: skip
    save_sae(tmp_path, ours.tensors(), cfg, torch.full((D_SAE,), 0.1))
    theirs = sae_lens.SAE.load_from_disk(tmp_path)

    x = torch.randn(500, D_IN, generator=torch.Generator().manual_seed(1))
    f, wanted = theirs.encode(x), ours.encode(x)
    assert torch.equal((f > 0).sum(1), (wanted > 0).sum(1))
    torch.testing.assert_close(f, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs.decode(f), ours(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-5)

    metadata = theirs.cfg.metadata
    assert metadata.hook_name == "blocks.2.hook_resid_post"
    assert (metadata.model_name, metadata.prepend_bos) == ("org/model", False)
    assert metadata.context_size == 128
    assert metadata.saectl == {"arch": arch, "train_key": "0123abcd"}
    assert theirs.cfg.apply_b_dec_to_input is False


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_saelens_computes_what_a_transcoder_predicts(skip: bool, tmp_path: Path) -> None:
    import sae_lens

    generator, d_out = torch.Generator().manual_seed(2), 10
    dec = torch.randn(D_SAE, d_out, generator=generator)
    tensors = {
        **_ours("jumprelu").tensors(),
        "W_dec": dec / dec.norm(dim=1, keepdim=True),
        "b_dec": torch.randn(d_out, generator=generator),
    }
    if skip:
        tensors["W_skip"] = torch.randn(d_out, D_IN, generator=generator)
    ours = SAE.from_tensors(tensors, "jumprelu")
    cfg = config(
        ours.tensors(), arch="jumprelu", k=None, model_name="org/model",
        hook_name="blocks.2.mlp.hook_in", hf_hook_name="model.layers.2.mlp", context_size=128,
        hook_name_out="blocks.2.hook_mlp_out",
    )  # fmt: skip
    save_sae(tmp_path, ours.tensors(), cfg)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    x = torch.randn(50, D_IN, generator=generator)
    torch.testing.assert_close(theirs.encode(x), ours.encode(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-4)
    assert theirs.cfg.metadata.hook_name_out == "blocks.2.hook_mlp_out"
