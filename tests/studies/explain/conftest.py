"""A bench of the embedded model with a small SAE, for studies of explanations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training import Silent

from sae_cli.lm.load import load_model
from sae_cli.lm.sites import find_tap
from sae_cli.plan.graph import build
from sae_cli.plan.pin import Pins
from sae_cli.plan.place import folder
from sae_cli.run import inline
from sae_cli.run.context import Context
from sae_cli.sae.base import SAE
from sae_cli.spec.load import load
from sae_cli.spec.work import CacheWork
from sae_cli.store.acts.array import stats_of
from sae_cli.store.blocks import BlockReader
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.ledger import read_done
from sae_cli.store.weights import load_sae
from sae_cli.studies.bench import Bench

SPEC = """\
name: explained
model: tiny
data: {tokens: 16_384, heldout_tokens: 8192, context: 64}
train: {width: 128, num_tokens: 16_384, batch_size: 512, shuffle_tokens: 2048}
matrix: {layer: [1], site: [mlp_out], sae: [{arch: topk, k: 8}]}
"""
KEY = "abcdef01"


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Of one trained SAE; a test that writes takes a copy by `bench`."""
    root: Path = tmp_path_factory.mktemp("explained")
    (root / "explained.yaml").write_text(SPEC, encoding="utf-8")
    workspace = Workspace(root / "store")
    pins = Pins(workspace.root, online=False)
    graph = build(pins.apply(load(root / "explained.yaml", ())))
    context = Context(workspace, Silent(), "cpu", lambda: False)
    results = inline.run(graph.of("tokens", "cache", "train"), context)
    assert {result.ending for result in results} == {"done"}
    (trained,), cached = graph.of("train"), graph.of("cache")[0]
    held, work = load_sae(folder(workspace, trained).path), cached.work
    assert isinstance(work, CacheWork)
    place, device = StageDir(folder(workspace, cached).path), torch.device("cpu")
    model, done = load_model(work.model, device), read_done(place)
    assert done is not None
    return Bench(
        model=model,
        spec=work.model,
        tap=find_tap(model, work.layer, work.site),
        mask=work.mask,
        limit=done.summary["outlier_norm"],
        mean=stats_of(place).mean,
        blocks=BlockReader(folder(workspace, cached.deps["tokens"]).path),
        batch_tokens=1024,
        device=device,
        saes={KEY: SAE.from_tensors(held.tensors, held.arch, held.k)},
        twins={},
        scratch=root / "scratch",
        cache=root / "cache",
    )


@pytest.fixture
def bench(explained: Bench, tmp_path: Path) -> Callable[..., Bench]:
    """`bench(**changes)`: the same with folders of its own, and quiet."""

    def make(**changes: Any) -> Bench:
        own = {"scratch": tmp_path / "scratch", "cache": tmp_path / "cache"}
        return replace(explained, **(own | {"note": lambda line: None} | changes))

    return make
