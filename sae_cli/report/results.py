"""One row per SAE of a sweep: what it is, and its metrics as its evaluation recorded them."""

from __future__ import annotations

from typing import Any

from sae_cli.plan.graph import Graph, Stage, variant
from sae_cli.plan.place import folder
from sae_cli.report.kin import in_pairs
from sae_cli.spec.base import Frozen
from sae_cli.spec.work import CacheWork, sae_of
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import read_done


class SaeRow(Frozen):
    """An SAE and its metrics; a metric that could not be computed is null."""

    slug: str
    """Name of the SAE."""
    train_key: str
    """Key of its training."""
    eval_key: str
    """Key of its evaluation."""
    model: str
    """The model's name in the sweep."""
    layer: int
    """Layer, from 0."""
    site: str
    """Where in the layer."""
    out_site: str | None
    """What a transcoder predicts; null for an SAE."""
    arch: str
    """Architecture."""
    width: int
    """Number of latents."""
    variant: str
    """Sparsity and what else is unusual, as in the SAE's name: `k4`, `l1_2 s1`."""
    metrics: dict[str, float | None]
    """Metric name -> value; formulas in `sae_cli.stages.metrics`."""
    path: str
    """Folder of the trained SAE."""
    control_of: str | None = None
    """Of an SAE of a model with random weights: `slug-key` of the SAE that it is a control of."""


def id_of(train: Stage) -> str:
    """An SAE's name and key, as its folder is called."""
    return f"{train.slug}-{train.key}"


def rows(graph: Graph, workspace: Workspace) -> list[SaeRow]:
    """The evaluated SAEs of a sweep, in the order of its cells, controls behind their SAE."""
    evals = {s.deps["train"].name: s for s in graph.of("eval")}
    out = []
    for cell, train, like in in_pairs(graph):
        score = evals[train.name]
        done = read_done(folder(workspace, score))
        if done is not None:
            out.append(row_of(cell.model, train, like, score, done.summary, workspace))
    return out


def row_of(
    model: str,
    train: Stage,
    like: Stage | None,
    score: Stage,
    summary: dict[str, Any],
    workspace: Workspace,
) -> SaeRow:
    """The row of one SAE, a control of `like` if that is there: `summary` is that of its
    evaluation's record."""
    capture = train.deps["cache"].work
    sae = sae_of(train.work)
    assert isinstance(capture, CacheWork) and sae.width is not None
    return SaeRow(
        slug=train.slug,
        train_key=train.key,
        eval_key=score.key,
        model=model,
        layer=capture.layer,
        site=capture.site,
        out_site=getattr(sae, "out_site", None),
        arch=sae.arch,
        width=sae.width,
        variant=" ".join(variant(sae)),
        metrics=summary["metrics"],
        path=str(folder(workspace, train).path),
        control_of=None if like is None else id_of(like),
    )
