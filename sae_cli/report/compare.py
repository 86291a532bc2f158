"""Two SAEs, or two sweeps SAE by SAE: which is better, metric by metric, and whether that can be
said.

A difference counts only where both numbers were measured alike: the same text, mask, context and
number of tokens, and the same version of the metric. Elsewhere both stand side by side with what
differs, and none is called better.
"""

from __future__ import annotations

from collections.abc import Sequence

from sae_cli.report.catalogue import meaning, ordered, unversioned
from sae_cli.report.table import LongRow, own
from sae_cli.spec.base import Frozen

MEASURED_ALIKE = {
    "dataset_sha256": "text",
    "mask_policy": "mask",
    "context_len": "context length",
    "llm_dtype": "number format of the model",
    "n_tokens": "number of tokens",
}
"""Columns that must agree, in words."""
PLACE = ("model_id", "model_revision", "layer", "site", "out_site")
"""Columns that say which activations: a difference is told, and forbids nothing."""
OF_A_PAIR = ("model_id", "layer", "site", "out_site", "arch", "d_sae", "k_or_lambda", "seed")
"""What two SAEs of different sweeps are matched by."""


class Difference(Frozen):
    """A metric of two SAEs."""

    a_sae: str
    b_sae: str
    metric: str
    slice: str
    a: float | None
    b: float | None
    a_interval: tuple[float, float] | None
    b_interval: tuple[float, float] | None
    difference: float | None
    """b - a; null where one has no value or they can't be compared."""
    better: str | None
    """`a`, `b` or `same`; null where the metric has no direction, or there is no difference."""
    intervals_overlap: bool | None
    """Null where one has no interval."""
    invalid: str | None
    """Why the two numbers can't be compared; null where they can."""


class Comparison(Frozen):
    """Two things, side by side."""

    a: str
    b: str
    valid: bool
    """Every pair of values can be compared."""
    notes: tuple[str, ...]
    """What differs beside the SAEs themselves."""
    only_a: tuple[str, ...] = ()
    """SAEs without a partner in b."""
    only_b: tuple[str, ...] = ()
    differences: tuple[Difference, ...]


def compare_saes(a: Sequence[LongRow], b: Sequence[LongRow]) -> Comparison:
    """The rows of one SAE against those of another."""
    return _comparison(a[0].sae_id, b[0].sae_id, [(a, b)])


def compare_sweeps(
    a_name: str, a: Sequence[LongRow], b_name: str, b: Sequence[LongRow]
) -> Comparison:
    """The rows of one sweep against those of another: SAEs that are alike in model, place,
    architecture, width, sparsity and seed are pairs. What has no partner, or more than one, is
    told and left out."""
    left, right = _by_kind(a), _by_kind(b)
    both = [k for k in left if k in right and len(left[k]) == len(right[k]) == 1]
    pairs = [(next(iter(left[k].values())), next(iter(right[k].values()))) for k in both]
    return _comparison(
        a_name,
        b_name,
        pairs,
        only_a=tuple(n for k, found in left.items() if k not in both for n in found),
        only_b=tuple(n for k, found in right.items() if k not in both for n in found),
    )


def _by_kind(rows: Sequence[LongRow]) -> dict[tuple[object, ...], dict[str, list[LongRow]]]:
    kinds: dict[tuple[object, ...], dict[str, list[LongRow]]] = {}
    for row in rows:
        if row.control_of is None:
            kind = tuple(getattr(row, column) for column in OF_A_PAIR)
            kinds.setdefault(kind, {}).setdefault(row.sae_id, []).append(row)
    return kinds


def _comparison(
    a: str,
    b: str,
    pairs: Sequence[tuple[Sequence[LongRow], Sequence[LongRow]]],
    only_a: tuple[str, ...] = (),
    only_b: tuple[str, ...] = (),
) -> Comparison:
    found = [d for left, right in pairs for d in _differences(left, right)]
    notes = dict.fromkeys(note for left, right in pairs for note in _notes(left[0], right[0]))
    notes |= dict.fromkeys(d.invalid for d in found if d.invalid)
    return Comparison(
        a=a,
        b=b,
        valid=not any(d.invalid for d in found),
        notes=tuple(notes),
        only_a=only_a,
        only_b=only_b,
        differences=tuple(found),
    )


def _notes(a: LongRow, b: LongRow) -> list[str]:
    return [
        f"{column} differs: {getattr(a, column)} and {getattr(b, column)}"
        for column in PLACE
        if getattr(a, column) != getattr(b, column)
    ]


def _differences(a: Sequence[LongRow], b: Sequence[LongRow]) -> list[Difference]:
    left, right = _by_metric(a), _by_metric(b)
    names = ordered({metric for metric, _ in (*left, *right)})
    slices = list(dict.fromkeys(part for _, part in (*left, *right)))
    out, told = [], set[tuple[str, str]]()
    for part in slices:
        for name in names:
            x, y = left.get((name, part)), right.get((name, part))
            if x is None or y is None:  # perhaps there under another version
                plain = (unversioned(name), part)
                x, y = x or _like(left, *plain), y or _like(right, *plain)
                if x is None or y is None or plain in told:
                    continue
                told.add(plain)
            out.append(_difference(x, y))
    return out


def _by_metric(rows: Sequence[LongRow]) -> dict[tuple[str, str], LongRow]:
    return {(r.metric, r.slice): r for r in rows if own(r)}


def _like(rows: dict[tuple[str, str], LongRow], plain: str, part: str) -> LongRow | None:
    return next((r for (n, p), r in rows.items() if unversioned(n) == plain and p == part), None)


def _difference(a: LongRow, b: LongRow) -> Difference:
    invalid = _unlike(a, b)
    there = a.value is not None and b.value is not None and invalid is None
    difference = b.value - a.value if there else None  # type: ignore[operator]
    ours, theirs = _interval(a), _interval(b)
    return Difference(
        a_sae=a.sae_id,
        b_sae=b.sae_id,
        metric=a.metric if a.metric == b.metric else unversioned(a.metric),
        slice=a.slice,
        a=a.value,
        b=b.value,
        a_interval=ours,
        b_interval=theirs,
        difference=difference,
        better=_better(a.metric, difference),
        intervals_overlap=ours[0] <= theirs[1] and theirs[0] <= ours[1]
        if ours and theirs
        else None,
        invalid=invalid,
    )


def _interval(row: LongRow) -> tuple[float, float] | None:
    if row.ci_low is None or row.ci_high is None:
        return None
    return row.ci_low, row.ci_high


def _unlike(a: LongRow, b: LongRow) -> str | None:
    """What of the measurement differs, or is not known, in words; None if nothing does."""
    if a.metric != b.metric:
        return f"{unversioned(a.metric)} is of versions {a.metric_version} and {b.metric_version}"
    differing = []
    for column, words in MEASURED_ALIKE.items():
        x, y = getattr(a, column), getattr(b, column)
        if x is None and y is None and column == "n_tokens":
            continue  # counted over something else than tokens
        if x is None or y is None:
            differing.append(f"the {words} is not known")
        elif x != y:
            short = (str(v)[:12] if column == "dataset_sha256" else v for v in (x, y))
            differing.append(f"the {words} differs: {' and '.join(map(str, short))}")
    return "; ".join(differing) or None


def _better(metric: str, difference: float | None) -> str | None:
    direction = meaning(metric).direction
    if difference is None or direction == "none":
        return None
    if difference == 0:
        return "same"
    return "b" if (difference > 0) == (direction == "up") else "a"
