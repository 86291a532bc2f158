"""One SAE on the judge's bench, and the file that is written of it.

`metrics.json` holds, in this order (formulas: `metrics` and `losses`; names end in a version):

    metrics      {name: {value, reason}}                 a value, or null and why
    intervals    {name: {low, high, n_docs, reason}}     bootstrap over documents, or null and why
    density_histogram_v1                                 see `ReconstructionMeter.histogram`
    tokens, predictions                                  how many counted
    split, outlier_norm                                  of the text; the limit found when caching
    bootstrap    {resamples, seed, level, unit}          how intervals were made
    slices       {name: {metrics, intervals, tokens and/or predictions, ...}}
    controls     [{name, of, k, seed, reason, metrics, intervals, tokens, predictions, slices}]

What stands at the top is the slice `kept`: the tokens that the stored mask lets count. Slices:

    kept             all metrics; `tokens`, `predictions`
    with_outliers    metrics of activations alone, norm outliers counted in; `tokens`, and how many
                     of them are `outliers`. No forward splices these, so it has no CE or KL
    special_sources  metrics of predictions alone: those made at special tokens
    special_targets  likewise: those of special tokens, made at tokens that count

With `eval.chat`, of the tokens that count, all metrics, `tokens` and `predictions`:

    chat             those of documents that hold a special token which the tokenizer's chat
                     template writes around a message, and which plain text has not (`lm.turns`)
    plain            those of all other documents
    chat:ROLE        those of chats between what the template writes before a message of that role
                     (assistant, system, user) and the next special token. A turn that begins
                     otherwise has no role. Where `data.train_on` names roles, other ones' tokens
                     do not count, so they are in no slice

With `eval.contexts`, for each length C, the same held-out blocks joined to contexts of C, so that
only the first positions of these are masked, and a token sees up to C - 1 before it:

    context=C:kept   all tokens that count, all metrics
    context=C:beyond those at positions, from 0, of `data.context` or more, which training never saw

A slice that can't be (a template without special tokens, a model of fewer positions) is null and
says why. In all of them the mask is the one in all passes: what does not count is not replaced.

`controls` has a row for each of `eval.controls`, in the order of their names: `name`; `of`, the
key of the SAE's training that it stands beside; `k`, how many components a token has; `seed`, null
where nothing is drawn; where there can be no such control, `reason`, and all numbers null. Every
other part has the form that it has for an SAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save

from sae_cli.errors import StoreError
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import EvalSpec
from sae_cli.stages.bootstrap import METHOD
from sae_cli.stages.eval_place import Place
from sae_cli.stages.metrics import DENSITY, METRICS
from sae_cli.stages.scores import Scores
from sae_cli.stages.task import Task
from sae_cli.store.atomic import write_bytes, write_json
from sae_cli.store.layout import StageDir
from sae_cli.store.weights import load_sae

SPLIT = "heldout"


class Judged(Scores):
    """One SAE and its meters."""

    def __init__(self, task: Task, place: Place, device: torch.device) -> None:
        """Raises StoreError when its folder can't be read, is damaged, holds numbers that are not
        finite, or is of another site's dimension."""
        self.task = task
        folder = task.deps["train"].path
        held = load_sae(folder)
        sae = SAE.from_tensors(held.tensors, held.arch, held.k).to(device)
        dims = (place.read.tap.dim, place.site.tap.dim)
        if (sae.d_in, sae.d_out) != dims:
            raise StoreError(
                f"{folder}: an SAE from {sae.d_in} to {sae.d_out} dimensions, where the "
                f"model has {dims[0]} and {dims[1]}"
            )
        super().__init__(sae, place)

    def write(self, spec: EvalSpec, controls: Sequence[dict[str, Any]] = ()) -> None:
        """Put the metrics, and the records of its controls, into the task's folder and finish
        it."""
        found = self.record(spec)
        record = {
            "metrics": found["metrics"],
            "intervals": found["intervals"],
            "density_histogram_v1": self.rebuilt.histogram(),
            "tokens": found["tokens"],
            "predictions": found["predictions"],
            "split": SPLIT,
            "outlier_norm": self.place.site.limit,
            "bootstrap": METHOD,
            "slices": found["slices"],
            "controls": list(controls),
        }
        out = StageDir(self.task.out)
        write_json(out.path / METRICS, record)
        density = self.rebuilt.density().cpu().contiguous()
        write_bytes(out.path / DENSITY, save({"density": density}))
        values = {name: each["value"] for name, each in found["metrics"].items()}
        self.task.finish([METRICS, DENSITY], {"metrics": values, "tokens": self.rebuilt.n})
