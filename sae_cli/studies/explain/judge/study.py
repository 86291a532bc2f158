"""The same examples, put to a language model: it explains from training text and judges held-out.

Latents are judged one after the other, in the order in which they were drawn, so where a budget
ends early, those that were judged are still a fair sample, and the rest says why it was not. A
question whose answers can't be read is left out and counted: its windows are nobody's mistake. One
that the endpoint never answered is asked by the next run: there are no findings before that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from sae_cli.spec.studies import ExplanationsStudy, JudgeSpec
from sae_cli.studies.bench import Bench, Figure, Findings
from sae_cli.studies.explain.arrays import Flags
from sae_cli.studies.explain.figures import mean_figure
from sae_cli.studies.explain.judge.ask import BudgetSpent, Failed, Interview, Read
from sae_cli.studies.explain.judge.endpoint import Endpoint
from sae_cli.studies.explain.judge.estimate import estimate
from sae_cli.studies.explain.judge.kept import Kept
from sae_cli.studies.explain.judge.meter import Meter
from sae_cli.studies.explain.judge.prompts import Asker
from sae_cli.studies.explain.judge.question import Question
from sae_cli.studies.explain.judge.replies import answers, explanation
from sae_cli.studies.explain.protocol import Examples, Tally, binned
from sae_cli.studies.explain.scoring import PROTOCOLS, Verdict, tally
from sae_cli.studies.explain.text import Text
from sae_cli.studies.explain.units import Unit

SPENT = "the budget was spent before this latent"


class Panel:
    """Makes the questions of a latent."""

    def __init__(
        self, spec: ExplanationsStudy, judge: JudgeSpec, asker: Asker, train: Text, heldout: Text
    ) -> None:
        self._spec, self._judge, self._asker = spec, judge, asker
        self._train, self._heldout = train, heldout

    def explain(self, unit: Unit) -> Question:
        """From its training windows, chosen by bins."""
        numbers, values = unit.shown
        chosen, _ = binned(values.max(1), min(self._judge.shown, len(numbers)), self._spec.bins)
        return self._asker.explain(self._train.windows(numbers[chosen])[0], values[chosen])

    def judge(self, found: Examples, words: str) -> Iterator[tuple[str, Flags, Question]]:
        """Of its held-out windows: the protocol, what is true, and the question."""
        for part in self._parts(len(found.numbers)):
            windows = self._heldout.windows(found.numbers[part])[0]
            yield "detection", found.fires[part], self._asker.detect(words, windows)
        for part in self._parts(len(found.shown)):
            windows = self._heldout.windows(found.shown[part])[0]
            question = self._asker.fuzz(words, windows, found.marks[part])
            yield "fuzzing", found.right[part], question

    def _parts(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self._judge.per_prompt):
            yield slice(start, start + self._judge.per_prompt)


def judge(
    spec: ExplanationsStudy,
    by: JudgeSpec,
    bench: Bench,
    train: Text,
    heldout: Text,
    units: Mapping[str, list[Unit]],
    out: Mapping[str, Findings],
) -> None:
    """Ask about the `units` of each SAE, and add to its findings in `out`.

    Raises JudgeError where the endpoint can't be asked, or has left questions unanswered when all
    were asked; what was answered is kept."""
    panel = Panel(spec, by, Asker(bench.tokenizer), train, heldout)
    chosen = {
        key: [unit for unit in each if isinstance(unit.examples, Examples)][: by.latents]
        for key, each in units.items()
    }
    with Endpoint(by) as endpoint:
        bench.note(estimate(by, panel.explain, panel.judge, chosen))
        with Interview(by, endpoint, Kept(bench.cache, by), bench.leave) as interview:
            for key, mine in chosen.items():
                _one_sae(spec, by, panel, interview, mine, out[key])
            bench.note(
                f"judge: {interview.sent} questions were sent, {interview.known} had answers "
                "from before"
            )
            interview.complete()


def _one_sae(
    spec: ExplanationsStudy, by: JudgeSpec, panel: Panel, interview: Interview,
    units: list[Unit], out: Findings,
) -> None:  # fmt: skip
    meter, failures = Meter(by), Counter[str]()
    verdicts: list[Verdict] = []
    spent = False
    for unit in units:
        try:
            if not spent:
                verdicts.append(_one_latent(panel, interview, meter, unit, failures))
        except BudgetSpent:
            spent = True
        if spent:
            unit.judged = {"explanation": None, "reason": SPENT}
    why = "no latent has held-out examples" if not units else (
        SPENT if spent and not verdicts else "too few questions were answered"
    )  # fmt: skip
    out.figures += _figures(verdicts, why, spec.seed)
    out.method["judge_model"] = by.model
    out.method["judge"] = {
        "latents": len(units),
        "judged": sum(each != Verdict(None, None) for each in verdicts),
        "stopped": SPENT if spent else None,
        "failed": dict(sorted(failures.items())),
        **meter.record(),
    }


def _one_latent(
    panel: Panel, interview: Interview, meter: Meter, unit: Unit, failures: Counter[str]
) -> Verdict:
    """Raises BudgetSpent."""
    assert isinstance(unit.examples, Examples)
    (words,) = interview.ask([Read(panel.explain(unit), explanation)], meter)
    if isinstance(words, Failed):
        failures[words.reason] += 1
        unit.judged = {"explanation": None, "reason": words.reason}
        return Verdict(None, None)
    parts = list(panel.judge(unit.examples, words))
    said = interview.ask(
        [Read(each, partial(answers, count=len(true))) for _, true, each in parts], meter
    )
    tallies: dict[str, Tally | None] = {}
    unanswered = Counter(each.reason for each in said if isinstance(each, Failed))
    failures.update(unanswered)
    for protocol in PROTOCOLS:
        pairs = [
            (yes, true)
            for (name, true, _), yes in zip(parts, said, strict=True)
            if name == protocol and not isinstance(yes, Failed)
        ]
        yes = np.array([each for yes, _ in pairs for each in yes], dtype=bool)
        true = np.array([each for _, true in pairs for each in true], dtype=bool)
        tallies[protocol] = tally(yes, true)
    verdict = Verdict(**tallies)
    unit.judged = {"explanation": words, "failed": dict(sorted(unanswered.items())),
                   **verdict.scores()}  # fmt: skip
    return verdict


def _figures(verdicts: list[Verdict], why: str, seed: int) -> list[Figure]:
    out = []
    for protocol in PROTOCOLS:
        found: list[dict[str, Any]] = [each.scores()[protocol] or {} for each in verdicts]
        for score in ("f1", "balanced_accuracy", "precision", "recall"):
            values = [each.get(score) for each in found]
            out.append(mean_figure(f"judge_{protocol}_{score}_v1", values, why, seed=seed))
    return out
