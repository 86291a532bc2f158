"""SAELens 6 loads every folder of a release as it stands, and computes what we compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_cli.sae.base import SAE
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.weights import load_sae

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
HEADS = 4


def kept_rows(store: Path, site: str) -> torch.Tensor:
    """The stored activations of a site that count, float32 [n, d]."""
    (stage,) = store.glob(f"cache/*.{site}-*")
    reader = ActivationReader(stage)
    rows = torch.cat([reader.chunk(k) for k in range(reader.n_chunks)])
    return rows[torch.from_numpy(reader.keep())].float()


def agree(folder: Path, x: torch.Tensor, heads: int | None = None) -> float:
    """Load `folder` with SAELens, compare with ours on `x [n, d]`, and return the common L0."""
    import sae_lens

    theirs = sae_lens.SAE.load_from_disk(folder)
    held = load_sae(folder)
    ours = SAE.from_tensors(held.tensors, held.arch, held.k)
    shown = x if heads is None else x.reshape(len(x), heads, -1)
    f, wanted = theirs.encode(shown), ours.encode(x)
    differ = (f > 0) != (
        wanted > 0
    )  # rounding may carry a value over a threshold, once in a blue moon
    assert differ.float().mean() < 1e-5
    same = ~differ.any(1)
    torch.testing.assert_close(f[same], wanted[same], rtol=1e-4, atol=1e-4)
    rebuilt = theirs.decode(f).reshape(x.shape)
    torch.testing.assert_close(rebuilt[same], ours(x)[same], rtol=1e-4, atol=1e-4)
    error = (rebuilt - x).square().sum() / (x - x.mean(0)).square().sum()
    assert error < 0.8, "it does not rebuild raw activations"
    assert theirs.cfg.metadata.saectl == held.cfg["metadata"]["saectl"]
    return float((f > 0).sum(1).float().mean())


def test_every_folder_of_a_release_gives_the_same_latents_in_saelens(finished: Any) -> None:
    (release,) = finished.stages("release")
    folders = sorted(p.parent for p in release.glob("small/*/cfg.json"))
    assert len(folders) == 6
    for folder in folders:
        cfg = json.loads((folder / "cfg.json").read_text())
        site = cfg["metadata"]["saectl"]["site"]
        x = kept_rows(finished.root, site)
        l0 = agree(folder, x)
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        assert l0 == pytest.approx(metrics["l0_v1"]["value"], rel=0.2), "train and held-out text"
        assert cfg["metadata"]["l0"] == metrics["l0_v1"]["value"]
        assert cfg["metadata"]["hook_name"] == f"blocks.1.hook_{site}"
        assert cfg["metadata"]["hf_hook_name"] in ("model.layers.1", "model.layers.1.mlp")


def test_attention_heads_come_in_the_shape_that_saelens_expects(warm: Any, small: Path) -> None:
    run = warm.sweep("run", small, "--set", "matrix.site=[attn_z]", "--set", "train.width=128")
    x = kept_rows(warm.store, "attn_z")
    assert x.shape[1] == HEADS * 32, "not d_model, which is 64"
    for folder in Path(run["release"]).glob("*/"):
        agree(folder, x, heads=HEADS)
