"""How well single latents match what the grammar of the embedded model says of each word.

For every label of the grammar (`role=verb`, `topic=sea`, `quoted=yes`, ...) that is true of enough
tokens and not of nearly all, two latents and a threshold are chosen on training documents: those
with the best F1 and with the best AUROC (`studies.scores` has the formulas). Held-out documents
judge the choice:

    truth.f1_v1            mean over labels of the F1 of the chosen latent and threshold
    truth.auroc_v1         mean over labels of the AUROC of the chosen latent
    truth.wins_neurons_v1  share of labels whose F1 is above that of the best neuron
    truth.wins_random_v1   the same, above that of the best random direction

Each label is a slice, `label:role=verb`. Neurons are the coordinates of the site with both signs;
random directions are as many as latents, drawn evenly from the unit sphere. They are chosen and
judged the same way, with any threshold. Intervals are over held-out documents; the choice is not
made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.sae.controls import SEED, random_rows
from sae_cli.spec.studies import TruthStudy
from sae_cli.studies import resample, scores
from sae_cli.studies.bench import Bench, Figure, Findings
from sae_cli.studies.features import (
    Features,
    Latents,
    Projections,
    both_signs,
)
from sae_cli.studies.truth_labels import Marked, marked, need_grammar

F1, AUROC = "truth.f1_v1", "truth.auroc_v1"
WINS = {"neurons": "truth.wins_neurons_v1", "random": "truth.wins_random_v1"}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Text:
    """Both parts, with the labels that are asked about."""

    train: Marked
    heldout: Marked
    labels: list[str]

    def has(self, part: Marked) -> NDArray[np.bool_]:
        """bool `[tokens, labels]`."""
        return part.has(self.labels)


@dataclass(frozen=True)
class Judged:
    """What the best features of a dictionary are worth on held-out documents, label by label."""

    f1: Floats
    """[labels]"""
    auroc: Floats
    f1s: Floats
    """[labels, resamples]"""
    aurocs: Floats
    chosen: list[dict[str, Any]]
    """Which feature and threshold each label has."""


def run(spec: TruthStudy, bench: Bench) -> dict[str, Findings]:
    """What the SAEs of the bench find of the grammar, by key.

    Raises ModelError for another model or other text than the embedded ones.
    """
    need_grammar(bench, "truth")
    text = _text(spec, bench)
    method = {**spec.model_dump(), "bootstrap": resample.METHOD, "seed": SEED}
    if not text.labels:
        reason = f"no label is true of {spec.fewest} tokens of both parts and false of enough"
        null = [Figure(name, None, reason) for name in (F1, AUROC, *WINS.values())]
        return {key: Findings(null, {}, method) for key in bench.saes}
    judge = _Judge(bench, text)
    mean, d = bench.mean, bench.tap.dim
    eye = both_signs(d, bench.device)
    neurons = judge(partial(_projections, eye, mean))
    widths = {sae.d_sae for sae in bench.saes.values()}
    random = {
        n: judge(partial(_projections, random_rows(n, d, bench.device), mean)) for n in widths
    }
    found = {}
    for key, sae in bench.saes.items():
        own = judge(partial(_latents, sae))
        beside = {"neurons": neurons, "random": random[sae.d_sae]}
        detail = _detail(text, {"latents": own, **beside})
        found[key] = Findings(list(_figures(text, judge.documents, own, beside)), detail, method)
    return found


def _latents(sae: SAE, part: Marked) -> Features:
    return Latents(sae, part.acts)


def _projections(rows: Tensor, mean: Tensor, part: Marked) -> Features:
    return Projections(rows, mean, part.acts)


def _text(spec: TruthStudy, bench: Bench) -> Text:
    train = marked(bench, "train", spec.tokens)
    heldout = marked(bench, "heldout", spec.heldout_tokens)
    counts = [(part.counts(), len(part.names)) for part in (train, heldout)]

    def asked(label: str) -> bool:
        there = [(count.get(label, 0), total) for count, total in counts]
        return all(spec.fewest <= n <= min(spec.most * total, total - 1) for n, total in there)

    return Text(train, heldout, [label for label in counts[0][0] if asked(label)])


class _Judge:
    """Chooses a dictionary's best features for each label, and judges them."""

    def __init__(self, bench: Bench, text: Text) -> None:
        self._leave = partial(bench.leave, "its start: a study begins again")
        self._text, self._device = text, bench.device
        self._train, self._heldout = text.has(text.train), text.has(text.heldout)
        documents = text.heldout.documents
        self._units, n = resample.units_of(documents)
        self._often = resample.draws(n)
        self.documents = len(np.unique(documents))
        """Held-out ones with a token that counts."""

    def __call__(self, features: Callable[[Marked], Features]) -> Judged:
        seen = features(self._text.train)
        labels = torch.from_numpy(self._train).to(self._device)
        table = scores.table(seen.columns, seen.count, labels, self._leave)
        best = [torch.from_numpy(each.argmax(0)) for each in (table.f1, table.auroc)]
        tried = seen.pick(best[0]).cpu().numpy()
        del seen
        judged = features(self._text.heldout)
        by_f1, by_auroc = (judged.pick(which).cpu().numpy() for which in best)
        n, chosen = len(self._text.labels), list[dict[str, Any]]()
        f1, auroc = np.zeros(n), np.zeros(n)
        f1s, aurocs = np.zeros((n, len(self._often))), np.zeros((n, len(self._often)))
        for i, label in enumerate(self._text.labels):
            at, latents = scores.threshold(tried[i], self._train[:, i]), [int(b[i]) for b in best]
            has, called = self._heldout[:, i], by_f1[i] > at
            f1[i], auroc[i] = scores.f1_of(called, has), scores.auroc_of(by_auroc[i], has)
            f1s[i] = resample.f1s(called, has, self._units, self._often)
            aurocs[i] = resample.aurocs(by_auroc[i], has, self._units, self._often)
            chosen.append(
                {
                    "label": label,
                    "f1": {
                        "feature": latents[0], "threshold": at,
                        "train": float(table.f1[latents[0], i]), "heldout": float(f1[i]),
                        "called": int(called.sum()), "true": int((called & has).sum()),
                    },
                    "auroc": {
                        "feature": latents[1], "train": float(table.auroc[latents[1], i]),
                        "heldout": float(auroc[i]),
                    },
                }
            )  # fmt: skip
            self._leave()
        return Judged(f1, auroc, f1s, aurocs, chosen)


def _figures(text: Text, documents: int, own: Judged, beside: Mapping[str, Judged]) -> list[Figure]:
    figures: list[Figure] = []
    counts, labels = text.heldout.counts(), text.labels

    def add(name: str, value: float, values: Floats, **more: Any) -> None:
        low, high = resample.ends(values, min(documents, resample.UNITS))
        docs = None if low is None else documents
        figures.append(Figure(name, value, None, low, high, docs, **more))

    for control, judged in ((None, own), *beside.items()):
        who: dict[str, Any] = {"control": control, "seed": SEED if control == "random" else None}
        for name, each, drawn in (
            (F1, judged.f1, judged.f1s), (AUROC, judged.auroc, judged.aurocs),
        ):  # fmt: skip
            add(name, float(each.mean()), drawn.mean(0), n=len(labels), **who)
        if control is None:
            for other, theirs in beside.items():
                share = float((own.f1 > theirs.f1).mean())
                add(WINS[other], share, (own.f1s > theirs.f1s).mean(0), n=len(labels))
        for i, label in enumerate(labels):
            of = {"slice": f"label:{label}", "n": counts[label], **who}
            add(F1, float(judged.f1[i]), judged.f1s[i], **of)
            add(AUROC, float(judged.auroc[i]), judged.aurocs[i], **of)
    return figures


def _detail(text: Text, by: Mapping[str, Judged]) -> dict[str, Any]:
    """Which feature each label found; neurons from the site's width on are negated ones."""
    train, heldout = text.train.counts(), text.heldout.counts()
    return {
        "tokens": {"train": len(text.train.names), "heldout": len(text.heldout.names)},
        "labels": {each: {"train": train[each], "heldout": heldout[each]} for each in text.labels},
        **{name: judged.chosen for name, judged in by.items()},
    }
