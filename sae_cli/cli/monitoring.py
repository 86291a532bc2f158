"""A stream of texts under watch: a record for each line, and what the rules were worth at the end.

Nothing of a text is kept but its scores where it has a label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sae_cli.cli import render
from sae_cli.cli.lines import Line, lines, no_field
from sae_cli.cli.watched import (
    BadRecord,
    EstimateLine,
    FiredLine,
    MonitorReport,
    RuleLine,
    TextRecord,
    VerdictLine,
)
from sae_cli.errors import DataError

if TYPE_CHECKING:  # torch stays away until a stream is watched
    from sae_cli.studies.watch.monitor import Monitor, Score, Scored
    from sae_cli.studies.watch.verdicts import Estimate

Label = bool | dict[str, bool] | None


class Watch:
    """The rules of a file, at work on one stream."""

    def __init__(self, monitor: Monitor, file: Path, sae: str) -> None:
        from sae_cli.studies.watch.verdicts import Tally

        self._monitor, self._file, self._sae = monitor, file, sae
        self._names = [rule.name for rule in monitor.rules.rules]
        self._tallies = {name: Tally() for name in self._names}
        self._fired = dict.fromkeys(self._names, 0)
        self.lines = self.texts = self.bad = self.unlabelled = 0

    def records(self, stream: BinaryIO) -> Iterator[str]:
        """A line of JSON, in ASCII, for each line of `stream`, in its order."""
        for line in lines(stream):
            self.lines += 1
            try:
                record: TextRecord | BadRecord = self._record(line)
                self.texts += 1
            except DataError as error:
                self.bad += 1
                record = BadRecord(line=line.number, error=error.what)
            yield json.dumps(record.model_dump(mode="json"))

    def _record(self, line: Line) -> TextRecord:
        text, label = text_and_label(line, self._monitor)
        scored = self._monitor.score(text)
        self._count(scored, label)
        assert line.data is not None
        rules = self._monitor.rules.rules
        return TextRecord(
            line=line.number,
            id=line.data.get("id"),
            label=label,
            tokens=scored.tokens,
            counted=scored.counted,
            windows=scored.windows,
            rules={
                rule.name: _rule(score, rule.threshold)
                for rule, score in zip(rules, scored.scores, strict=True)
            },
        )

    def _count(self, scored: Scored, label: Label) -> None:
        self.unlabelled += label is None
        for name, each in zip(self._names, scored.scores, strict=True):
            self._fired[name] += bool(each.fired)
            said = label.get(name) if isinstance(label, dict) else label
            if said is not None and each.score is not None:
                self._tallies[name].add(each.score, bool(each.fired), said)

    def report(self) -> MonitorReport:
        """What was counted so far."""
        verdicts = []
        for name, tally in self._tallies.items():
            if not len(tally):
                continue
            v = tally.verdict()
            verdicts.append(
                VerdictLine(
                    rule=name,
                    texts=v.texts,
                    true_positives=v.true_positives,
                    false_positives=v.false_positives,
                    false_negatives=v.false_negatives,
                    true_negatives=v.true_negatives,
                    precision_v1=_estimate(v.precision),
                    recall_v1=_estimate(v.recall),
                    fpr_v1=_estimate(v.fpr),
                    auroc_v1=_estimate(v.auroc),
                )
            )
        return MonitorReport(
            rules_file=str(self._file),
            sae=self._sae,
            lines=self.lines,
            texts=self.texts,
            bad=self.bad,
            unlabelled=self.unlabelled,
            fired=dict(self._fired),
            rules=tuple(verdicts),
        )

    def tell(self, found: MonitorReport) -> None:
        """For people, on stdout."""
        fired = ", ".join(f"{name} fired on {n}" for name, n in found.fired.items())
        bad = f", {found.bad} bad line{'s' * (found.bad != 1)}" if found.bad else ""
        print(f"{found.texts} text{'s' * (found.texts != 1)}{bad}: {fired}")
        if not found.rules:
            return
        columns = ["rule", "texts", "TP", "FP", "FN", "TN", "precision", "recall", "FPR", "AUROC"]
        render.table(
            columns,
            [
                (
                    v.rule,
                    v.texts,
                    v.true_positives,
                    v.false_positives,
                    v.false_negatives,
                    v.true_negatives,
                    *map(_told, (v.precision_v1, v.recall_v1, v.fpr_v1, v.auroc_v1)),
                )
                for v in found.rules
            ],
            right=columns[1:],
        )
        measures = ("precision_v1", "recall_v1", "fpr_v1", "auroc_v1")
        for v in found.rules:
            for name in measures:
                each: EstimateLine = getattr(v, name)
                if each.reason is not None:
                    print(f"{v.rule}: {name.removesuffix('_v1')}: {each.reason}")


def text_and_label(line: Line, monitor: Monitor) -> tuple[str, Label]:
    """What a line asks for. Raises DataError for one that can't be read."""
    if line.data is None:
        raise DataError(line.wrong)
    field = monitor.rules.text
    if field not in line.data:
        raise DataError(no_field(line.data, field))
    return monitor.text_of(line.data[field]), _label(line.data.get("label"), monitor)


def _label(given: Any, monitor: Monitor) -> Label:
    if given is None or isinstance(given, bool):
        return given
    if not isinstance(given, dict):
        raise DataError(f"label is {json.dumps(given)[:40]}: write true or false")
    names = {rule.name for rule in monitor.rules.rules}
    for name, value in given.items():
        if name not in names:
            raise DataError(f"label is of a rule {name!r}, which is not in the rules file")
        if not isinstance(value, bool):
            raise DataError(f"the label of rule {name} is neither true nor false")
    return given


def _rule(score: Score, threshold: float | None) -> RuleLine:
    assert threshold is not None
    return RuleLine(
        score=score.score,
        threshold=threshold,
        fired=score.fired,
        reason="no token counts" if score.score is None else None,
        tokens=tuple(
            FiredLine(position=t.position, text=t.text, activation=t.activation)
            for t in score.tokens
        ),
        tokens_fired=score.tokens_fired,
    )


def _estimate(found: Estimate) -> EstimateLine:
    return EstimateLine(value=found.value, low=found.low, high=found.high, reason=found.reason)


def _told(found: EstimateLine) -> str:
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
