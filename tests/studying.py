"""SAEs of the embedded model, trained for a few seconds, and the bench that a study is handed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from training import Silent

from sae_cli.lm.load import load_model
from sae_cli.plan.graph import Graph, build
from sae_cli.plan.pin import Pins
from sae_cli.plan.place import folder
from sae_cli.run import inline
from sae_cli.run.context import Context
from sae_cli.sae.base import SAE
from sae_cli.spec.load import load
from sae_cli.spec.work import CacheWork, TokensWork
from sae_cli.stages.eval_place import Site
from sae_cli.stages.task import Dep
from sae_cli.store.blocks import BlockReader
from sae_cli.store.layout import Workspace
from sae_cli.store.weights import load_sae
from sae_cli.studies.bench import Bench

SPEC = """\
name: studied
model: tiny
data: {tokens: 65_536, heldout_tokens: 16_384}
train: {width: 256, num_tokens: 131_072, batch_size: 1024, lr: 2.0e-3}
matrix: {layer: [2], site: [resid_post], k: [8]}
"""
QUICK = (
    "data.tokens=8192", "data.heldout_tokens=8192", "train.width=64", "train.num_tokens=1024",
    "train.batch_size=512", "train.shuffle_tokens=1024",
)  # fmt: skip
"""Two steps: for tests that ask for an SAE, not for a good one."""
CPU = torch.device("cpu")


class Studied:
    """A sweep of one site, trained, in a workspace of its own."""

    def __init__(self, root: Path, *sets: str, spec: str = SPEC) -> None:
        (root / "studied.yaml").write_text(spec, encoding="utf-8")
        self.root, self.workspace = root, Workspace(root / "store")
        pins = Pins(self.workspace.root, online=False)
        self.graph: Graph = build(pins.apply(load(root / "studied.yaml", sets)))
        context = Context(self.workspace, Silent(), "cpu", lambda: False)
        results = inline.run(self.graph.of("tokens", "cache", "train"), context)
        assert {result.ending for result in results} <= {"done", "skipped"}

    def bench(self, **changes: Any) -> Bench:
        """All its SAEs, each the twin of all others."""
        (cache,), (text,) = self.graph.of("cache"), self.graph.of("tokens")
        assert isinstance(cache.work, CacheWork) and isinstance(text.work, TokensWork)
        model = load_model(cache.work.model, CPU)
        place = folder(self.workspace, cache).path
        site = Site(Dep(cache.work, place, cache.key, cache.slug), model, CPU)
        saes = {each.key: self._sae(each) for each in self.graph.of("train")}
        bench = Bench(
            model=model,
            spec=cache.work.model,
            tap=site.tap,
            mask=site.mask,
            limit=site.limit,
            mean=site.mean,
            blocks=BlockReader(folder(self.workspace, text).path),
            batch_tokens=4096,
            device=CPU,
            saes=saes,
            twins={key: tuple(s for k, s in saes.items() if k != key) for key in saes},
            scratch=self.root,
            cache=self.root,
            note=lambda _: None,
            data=text.work.data,
        )
        return replace(bench, **changes)

    def _sae(self, train: Any) -> SAE:
        held = load_sae(folder(self.workspace, train).path)
        return SAE.from_tensors(held.tensors, held.arch, held.k)


def fresh(bench: Bench) -> Bench:
    """The same with nothing kept of earlier studies."""
    return replace(bench, scratch=Path(mkdtemp(dir=bench.scratch)))
