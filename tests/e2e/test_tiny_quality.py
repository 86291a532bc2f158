"""What `make demo` gives: the shipped sweep of the embedded model, with its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

pytestmark = pytest.mark.slow


def saes(demo: Any, *, arch: str | None = None, site: str | None = None) -> list[Any]:
    """The rows of some architecture at some site; there is at least one."""
    found = [
        row
        for row in demo["results"]
        if (arch is None or row["arch"] == arch) and (site is None or row["site"] == site)
    ]
    assert found, (arch, site)
    return found


def test_the_demo_shows_every_architecture_and_the_three_sites(demo: Any) -> None:
    assert {row["arch"] for row in demo["results"]} == {"topk", "relu_l1", "jumprelu"}
    assert {row["site"] for row in demo["results"]} == {"resid_post", "mlp_out", "attn_out"}
    assert Path(demo["release"]).is_dir()


def test_the_model_knows_its_text_far_better_than_word_counts_do(demo: Any) -> None:
    """Clean CE, against that of the training tokens' frequencies, both in nats."""
    (stage,) = demo["store"].glob("tokens/*")
    train, heldout = (
        np.asarray(zarr.open_array(stage / f"{part}.zarr" / "tokens", mode="r")[:]).reshape(-1)
        for part in ("train", "heldout")
    )
    counts = np.bincount(train, minlength=int(heldout.max()) + 1) + 1.0
    unigram = float(-np.log(counts / counts.sum())[heldout].mean())
    assert unigram > 4.5
    for row in demo["results"]:
        clean = row["metrics"]["ce.clean_v1"]
        assert clean < 1.1 and clean < 0.25 * unigram
        assert clean < row["metrics"]["ce.spliced_v1"] < row["metrics"]["ce.zero_v1"], row["slug"]


def test_the_best_residual_sae_recovers_95_percent_of_the_loss(demo: Any) -> None:
    best = max(r["metrics"]["ce_recovered.zero_v1"] for r in saes(demo, site="resid_post"))
    assert best >= 0.95


def test_topk_rebuilds_the_residual_stream_from_four_latents(demo: Any) -> None:
    for row in saes(demo, arch="topk", site="resid_post"):
        assert row["metrics"]["l0_v1"] == pytest.approx(4, abs=0.01), row["slug"]
        assert row["metrics"]["fvu.pooled_v1"] < 0.05, row["slug"]
        assert row["metrics"]["ce_recovered.zero_v1"] > 0.95, row["slug"]


def test_every_sae_explains_most_of_its_site(demo: Any) -> None:
    for row in demo["results"]:
        metrics = row["metrics"]
        assert metrics["fvu.pooled_v1"] < 0.25, row["slug"]
        assert metrics["ev.pooled_v1"] == pytest.approx(1 - metrics["fvu.pooled_v1"])
        assert metrics["cosine_v1"] > 0.85, row["slug"]
        assert 0.8 < metrics["shrinkage_v1"] < 1.1, row["slug"]


def test_few_latents_are_dead(demo: Any) -> None:
    for row in demo["results"]:
        assert row["metrics"]["dead_fraction_v1"] < 0.20, row["slug"]


def test_jumprelu_meets_its_target_on_heldout_text(demo: Any) -> None:
    for row in saes(demo, arch="jumprelu"):
        target = float(row["slug"].split(".l0_")[1].split(".")[0])
        assert row["metrics"]["l0_v1"] == pytest.approx(target, rel=0.1), row["slug"]


def test_relu_l1_is_sparse(demo: Any) -> None:
    for row in saes(demo, arch="relu_l1"):
        assert 1 < row["metrics"]["l0_v1"] < 64, row["slug"]
