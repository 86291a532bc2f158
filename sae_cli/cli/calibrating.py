"""`saectl monitor --calibrate`: thresholds from texts that no rule should fire on, and a rules file
that says what they hold for. A line that can't be read, or is labelled true, ends it: a threshold
of half the texts would be another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_cli import __version__
from sae_cli.cli import render
from sae_cli.cli.lines import lines
from sae_cli.errors import OK, DataError, UsageError
from sae_cli.spec.rules import (
    Calibrated,
    Calibration,
    ModelIdentity,
    Rule,
    Rules,
    SaeIdentity,
    written,
)
from sae_cli.store.atomic import sha256_of, write_bytes

if TYPE_CHECKING:
    from sae_cli.studies.watch.monitor import Monitor


def target_of(rules: Rules, path: Path, negatives: Path, out: Path | None, replace: bool) -> Path:
    """Where the calibrated file goes. Raises UsageError, before anything is loaded, where nothing
    is to be calibrated or a file stands in the way."""
    if not negatives.is_file():
        raise UsageError(f"--calibrate {negatives}: there is no such file")
    aimed = [rule for rule in rules.rules if rule.target_fpr is not None]
    if not aimed:
        raise UsageError(
            f"no rule of {path} has a target_fpr, the share of these texts that may fire",
            hint="write one, for example target_fpr: 0.01",
        )
    for rule in rules.rules:
        if rule.target_fpr is None and rule.threshold is None:
            raise UsageError(f"rule {rule.name} of {path} has neither target_fpr nor threshold")
    out = out or path.with_name(f"{path.stem.removesuffix('.calibrated')}.calibrated.yaml")
    if out.exists() and not replace:
        raise UsageError(
            f"{out} is there already", hint="--yes replaces it, --out FILE is another place"
        )
    return out


def calibrated(
    monitor: Monitor,
    negatives: Path,
    out: Path,
    identity: tuple[SaeIdentity, ModelIdentity],
    path: Path,
) -> int:
    """Score the texts, find the thresholds, write the file."""
    rules = monitor.rules
    scores, texts, distinct = _scores(monitor, negatives)
    found = [
        _rule(rule, rules, [s for s in some if s is not None])
        for rule, some in zip(rules.rules, scores, strict=True)
    ]
    calibration = Calibration(
        saectl=__version__,
        device=str(monitor.live.reader.device),
        sae=identity[0],
        model=identity[1],
        file=negatives.name,
        sha256=sha256_of(negatives),
        texts=texts,
        distinct=distinct,
    )
    update = {"rules": tuple(found), "calibration": calibration}
    write_bytes(out, written(rules.model_copy(update=update)).encode())
    print(
        f"{texts} negative texts" + ("" if texts == distinct else f", {distinct} of them distinct")
    )
    render.table(
        ["rule", "threshold", "fired on", "FPR", "95 % interval", "target"],
        [_row(rule) for rule in found],
        right=["threshold", "fired on", "FPR", "95 % interval", "target"],
    )
    print(f"written: {out}\nnext: saectl monitor {out} < texts.jsonl")
    return OK


def _scores(monitor: Monitor, negatives: Path) -> tuple[list[list[float | None]], int, int]:
    """Of each rule the scores of all texts; how many texts there are, and how many differ."""
    from sae_cli.cli.monitoring import text_and_label

    scores: list[list[float | None]] = [[] for _ in monitor.rules.rules]
    seen, texts = set[bytes](), 0
    with negatives.open("rb") as stream:
        for line in lines(stream):
            try:
                text, label = text_and_label(line, monitor)
                if label is True or (isinstance(label, dict) and any(label.values())):
                    raise DataError("it is labelled true, and thresholds are found on negatives")
                scored = monitor.score(text)
            except DataError as error:
                raise DataError(f"{negatives}:{line.number}: {error.what}") from error
            for some, each in zip(scores, scored.scores, strict=True):
                some.append(each.score)
            seen.add(hashlib.sha256(text.encode()).digest()[:16])
            texts += 1
    return scores, texts, len(seen)


def _rule(rule: Rule, rules: Rules, scores: Sequence[float]) -> Rule:
    from sae_cli.studies.watch.thresholds import exact_interval, threshold

    if rule.target_fpr is None:
        return rule
    try:
        found, above = threshold(scores, rule.target_fpr)
    except DataError as error:
        raise DataError(f"rule {rule.name}: {error.what}", hint=error.hint) from error
    low, high = exact_interval(above, len(scores))
    about = Calibrated(
        rule=rule.digest(rules),
        threshold=found,
        target_fpr=rule.target_fpr,
        texts=len(scores),
        false_positives=above,
        fpr=above / len(scores),
        low=low,
        high=high,
        expected_fpr=(above + 1) / (len(scores) + 1),
    )
    return rule.model_copy(update={"threshold": found, "calibrated": about})


def _row(rule: Rule) -> tuple[object, ...]:
    found = rule.calibrated
    if found is None or rule.target_fpr is None:
        return (rule.name, f"{rule.threshold:g}", "-", "-", "-", "as written")
    return (
        rule.name,
        f"{found.threshold:.6g}",
        f"{found.false_positives} of {found.texts}",
        f"{found.fpr:.4f}",
        f"[{found.low:.4f}, {found.high:.4f}]",
        f"{found.target_fpr:g}",
    )
