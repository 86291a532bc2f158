"""Sparse probing: what k latents of an SAE tell of a label that people gave to texts.

As in Gurnee et al. 2023 (arXiv 2305.01610) and Kantamneni et al. 2025 (arXiv 2502.16681). The
latents of each text are pooled over its tokens; the k whose means over either label are farthest
apart, on training texts, are read by a logistic regression with an L2 penalty, whose strength is
chosen by cross-validation on training texts; what is told are scores on test texts.

    probing.accuracy_v1  share of test texts whose label is said
    probing.auroc_v1     share of pairs of a positive and a negative whose positive ranks higher
    probing.f1_v1        2 TP / (2 TP + FP + FN)

of each data set (`data=NAME,k=K`), and their mean over data sets (`k=K`). Beside the SAE stand
`neurons`, the k best coordinates of the site; `random`, the k best of as many random directions as
the SAE has latents; `all`, every coordinate at once; `majority`, the more frequent label. Intervals
draw test texts again, of every data set, and never data sets.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import sklearn
from torch import Tensor

from sae_cli.errors import DataError
from sae_cli.sae import controls
from sae_cli.spec.studies import ProbingStudy, ProbingTask
from sae_cli.store.atomic import read_json, write_json
from sae_cli.studies import resample
from sae_cli.studies.bench import Bench, Figure, Findings
from sae_cli.studies.probe import fit, scores
from sae_cli.studies.probe.pool import Lens, Pooled, pooled, read
from sae_cli.studies.probe.scores import Bools, Floats
from sae_cli.studies.probe.split import Parts, digest, lacking, parts
from sae_cli.studies.probe.texts import Labelled, data_sets

NEURONS, RANDOM, ALL, MAJORITY = "neurons", "random", "all", "majority"


@dataclass
class Outcome:
    """What came of one data set. A probe is called `LENS/K`."""

    name: str
    n: int
    """Test texts."""
    detail: dict[str, Any]
    reason: str | None = None
    """Why there is no probe at all."""
    scores: dict[str, Floats] = field(default_factory=dict)
    """By probe, float64 [3, 1 + RESAMPLES], as `probe.scores.scores` gives them."""
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By probe: what it reads, and its strength."""


def run(spec: ProbingStudy, bench: Bench) -> dict[str, Findings]:
    """What is found of each of the bench's SAEs. Raises DataError."""
    lenses = _lenses(bench)
    outcomes = [_kept(spec, bench, data, lenses) for data in _asked(spec, bench)]
    return {key: _findings(spec, key, sae.d_sae, outcomes) for key, sae in bench.saes.items()}


def _asked(spec: ProbingStudy, bench: Bench) -> Iterator[Labelled]:
    tasks: Sequence[ProbingTask] = spec.tasks
    if not tasks:
        if bench.spec.builtin is None:
            raise DataError(
                "there is nothing to probe: studies.probing names no tasks, and only the embedded "
                "model has some of its own",
                hint="for example `tasks: [{sae_probes: all}]`, or `[{path: reviews.jsonl}]`.",
            )
        tasks = (ProbingTask(builtin="tiny"),)
    yield from data_sets(tasks, spec.rows, spec.seed)


def _lenses(bench: Bench) -> dict[str, Lens]:
    """The SAEs by their keys, the site's coordinates, and random directions, once for each number
    of latents."""
    mean = bench.mean.float()
    found = {NEURONS: Lens(len(mean), partial(_project, mean, None))}
    for key, sae in bench.saes.items():
        found[key] = Lens(sae.d_sae, sae.encode)
        rows = controls.random_rows(sae.d_sae, len(mean), mean.device)
        found.setdefault(_random(sae.d_sae), Lens(sae.d_sae, partial(_project, mean, rows)))
    return found


def _random(d_sae: int) -> str:
    return f"{RANDOM}-{d_sae}"


def _project(mean: Tensor, rows: Tensor | None, x: Tensor) -> Tensor:
    centred = x.float() - mean
    return centred if rows is None else centred @ rows.T


def _kept(spec: ProbingStudy, bench: Bench, data: Labelled, lenses: Mapping[str, Lens]) -> Outcome:
    """The outcome of a data set, from the scratch folder if it was found there before."""
    ids = read(
        bench, data.texts, context=spec.context,
        chat_template=spec.chat_template and not data.rendered,
    )  # fmt: skip
    cut = parts(data, ids, spec)
    whole = digest(data, [*cut.train, *cut.test])
    of = {"spec": spec.model_dump(mode="json"), "lenses": [*lenses], "sha256": whole}
    stem = bench.scratch / f"probing-{re.sub(r'[^A-Za-z0-9.-]', '_', data.name)}"
    told, numbers = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".npz")
    before = read_json(told) if told.is_file() else None
    if before is not None and before["of"] == json.loads(json.dumps(of)):
        with np.load(numbers, allow_pickle=False) as held:
            return Outcome(**before["outcome"], scores={k: held[k] for k in held.files})
    bench.note(f"probing {data.name}: {len(cut.train)} texts to train on, {len(cut.test)} to test")
    chosen = sorted({*cut.train, *cut.test})
    seen = pooled(bench, [ids[i] for i in chosen], lenses, spec.pool, stem)
    made = _outcome(spec, bench, data, cut, chosen, seen)
    shutil.rmtree(stem)
    made.detail["sha256"] = whole
    np.savez(numbers, **made.scores)  # type: ignore[arg-type]
    plain = {k: v for k, v in vars(made).items() if k != "scores"}
    write_json(told, {"of": of, "outcome": plain})
    return made


def _outcome(
    spec: ProbingStudy, bench: Bench, data: Labelled, cut: Parts, chosen: Sequence[int],
    seen: Pooled,
) -> Outcome:  # fmt: skip
    """Every probe of a data set; row r of what is `seen` is text `chosen[r]`."""
    row_of = {i: row for row, i in enumerate(chosen) if seen.counts[row]}
    train, test = ([row_of[i] for i in part if i in row_of] for part in (cut.train, cut.test))
    truth = np.array([data.positive[i] for i in chosen], dtype=bool)
    made = Outcome(data.name, len(test), {
        "origin": data.origin, "positive": data.labels, "train_texts": len(train),
        "test_texts": len(test), "repeated": cut.repeated, "empty": cut.empty,
        "without_tokens_that_count": len(chosen) - len(row_of),
    })  # fmt: skip
    made.reason = lacking(truth[train], truth[test], spec.folds)
    if made.reason is not None:
        return made
    share = float(truth[train].mean())
    made.scores[f"{MAJORITY}/0"] = scores.scores(np.full(len(test), share), truth[test])
    for name, features in seen.features.items():
        bench.leave("probing")
        order = fit.apart(features, train, truth[train])
        for k in spec.k:
            if k <= len(order):
                _probe(made, f"{name}/{k}", order[:k], spec, features, train, test, truth)
    neurons = seen.features[NEURONS]
    whole = np.arange(neurons.shape[1])
    _probe(made, f"{ALL}/{ALL}", whole, spec, neurons, train, test, truth)
    return made


def _probe(
    made: Outcome, name: str, reads: Any, spec: ProbingStudy, features: fit.Features,
    train: Sequence[int], test: Sequence[int], truth: Bools,
) -> None:  # fmt: skip
    """Fit the probe `name` that `reads` these features, and note how it scores."""
    x = features[np.ix_(train, reads)].astype(np.float64)
    probe = fit.fitted(x, truth[train], strengths=spec.strengths, folds=spec.folds, seed=spec.seed)
    chance = probe.chance(features[np.ix_(test, reads)].astype(np.float64))
    made.scores[name] = scores.scores(chance, truth[test])
    made.probes[name] = {"C": probe.strength} | (
        {} if name.startswith(ALL) else {"reads": reads.tolist()}
    )


def _findings(spec: ProbingStudy, key: str, d_sae: int, outcomes: Sequence[Outcome]) -> Findings:
    """The rows of one SAE and of what stands beside it."""
    figures: list[Figure] = []
    for lens, control in ((key, None), (NEURONS, NEURONS), (_random(d_sae), RANDOM),
                          (ALL, ALL), (MAJORITY, MAJORITY)):  # fmt: skip
        sizes = {ALL: [ALL], MAJORITY: ["0"]}.get(lens, [str(k) for k in spec.k])
        for size in sizes:
            figures += _rows(f"{lens}/{size}", size, control, outcomes)
    detail = {
        each.name: each.detail
        | {"probes": {k: each.probes[name] for k in map(str, spec.k)
                      if (name := f"{key}/{k}") in each.probes}}
        for each in outcomes
    }  # fmt: skip
    method = {
        "chosen_by": "largest |difference of the labels' means| on training texts",
        "probe": "logistic regression, L2, standardised features",
        "strength_by": f"{spec.folds}-fold log loss on training texts",
        "scikit_learn": sklearn.__version__, "pool": spec.pool, "context": spec.context,
        "behind": "an end-of-text token, which does not count", "seed": spec.seed,
        "random_seed": controls.SEED, "bootstrap": {**resample.METHOD, "unit": "test text"},
    }  # fmt: skip
    return Findings(figures, {"data_sets": detail}, method)


def _rows(
    probe: str, size: str, control: str | None, outcomes: Sequence[Outcome]
) -> Iterator[Figure]:
    """A probe's scores, the mean over data sets first."""
    seed = controls.SEED if control == RANDOM else None
    good = [each for each in outcomes if probe in each.scores]
    for at, score in enumerate(scores.SCORES):
        metric = f"probing.{score}_v1"
        mean = np.mean([each.scores[probe][at] for each in good], axis=0) if good else None
        n = sum(each.n for each in good)
        why = None if good else _why(probe, outcomes)
        yield _figure(metric, mean, n, f"k={size}", control, seed, why)
        for each in outcomes:
            found = each.scores.get(probe)
            yield _figure(
                metric, None if found is None else found[at], each.n,
                f"data={each.name},k={size}", control, seed,
                None if found is not None else _why(probe, [each]),
            )  # fmt: skip


def _why(probe: str, outcomes: Sequence[Outcome]) -> str:
    reasons = [each.reason for each in outcomes if each.reason is not None]
    if len(reasons) == len(outcomes):
        return reasons[0] if len(reasons) == 1 else f"no data set has enough: {reasons[0]}"
    return f"there are fewer than {probe.rpartition('/')[2]} to choose of"


def _figure(
    metric: str, values: Floats | None, n: int, of: str, control: str | None, seed: int | None,
    why: str | None,
) -> Figure:  # fmt: skip
    """A row of `values` [1 + RESAMPLES], the first of which is the score itself."""
    if values is None:
        return Figure(metric, None, why, slice=of, control=control, seed=seed, n=n)
    low, high = resample.ends(values[1:], n)
    return Figure(metric, float(values[0]), None, low, high, n, of, control, n, seed)
