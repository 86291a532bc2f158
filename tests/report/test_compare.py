"""Comparisons: which is better by its direction, and when that can't be said."""

from __future__ import annotations

import pytest
from report.rows import number

from sae_cli.report.compare import compare_saes, compare_sweeps


def pair(a, b, **more):
    return compare_saes([a], [b.model_copy(update={"sae_id": "two", **more})])


@pytest.mark.parametrize(
    ("metric", "a", "b", "better"),
    [
        ("fvu.pooled_v1", 0.4, 0.3, "b"),
        ("ce_recovered.zero_v1", 0.9, 0.8, "a"),
        ("kl.spliced_v1", 0.1, 0.1, "same"),
        ("l0_v1", 4.0, 5.0, None),
        ("a.metric.of.tomorrow_v1", 4.0, 5.0, None),
        ("fvu.pooled_v1", 0.4, None, None),
    ],
)
def test_better_goes_by_the_direction_of_the_metric(metric, a, b, better):
    found = pair(number(metric, a), number(metric, b))
    (one,) = found.differences
    assert found.valid and one.better == better
    assert one.difference == (None if b is None else pytest.approx(b - a))


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        ("dataset_sha256", "abd", "text"),
        ("dataset_sha256", None, "text is not known"),
        ("mask_policy", "another", "mask"),
        ("context_len", 128, "context"),
        ("n_tokens", 49, "tokens"),
        ("llm_dtype", "bfloat16", "number format"),
    ],
)
def test_what_was_measured_otherwise_is_told_and_never_called_better(column, value, word):
    row = number("fvu.pooled_v1", 0.4)
    found = pair(row, number("fvu.pooled_v1", 0.3), **{column: value})
    (one,) = found.differences
    assert not found.valid and one.better is None and one.difference is None
    assert (one.a, one.b) == (0.4, 0.3) and word in (one.invalid or "")
    assert one.invalid in found.notes


def test_versions_of_a_metric_are_not_compared():
    new = number("fvu.pooled_v2", 0.3, metric_version=2)
    found = pair(number("fvu.pooled_v1", 0.4), new)
    (one,) = found.differences
    assert (one.metric, one.a, one.b) == ("fvu.pooled", 0.4, 0.3)
    assert one.invalid == "fvu.pooled is of versions 1 and 2"


def test_another_place_is_a_note():
    found = pair(number("fvu.pooled_v1", 0.4), number("fvu.pooled_v1", 0.3), layer=3)
    assert found.valid and found.notes == ("layer differs: 2 and 3",)


@pytest.mark.parametrize(("low", "overlap"), [(0.25, True), (0.45, False)])
def test_intervals_are_kept_and_laid_over_each_other(low, overlap):
    a = number("fvu.pooled_v1", 0.3, ci_low=0.2, ci_high=0.4)
    b = number("fvu.pooled_v1", 0.5, ci_low=low, ci_high=0.6)
    (one,) = pair(a, b).differences
    assert one.a_interval == (0.2, 0.4) and one.intervals_overlap is overlap
    (none,) = pair(a, number("fvu.pooled_v1", 0.5)).differences
    assert none.intervals_overlap is None


def test_sweeps_are_compared_sae_by_sae_and_what_has_no_partner_is_named():
    a = [number("fvu.pooled_v1", 0.4), number("fvu.pooled_v1", 0.2, sae_id="lone", layer=5)]
    b = [
        number("fvu.pooled_v1", 0.3, sae_id="other"),
        number("fvu.pooled_v1", 0.1, sae_id="other", control_of="other", arch="pca"),
    ]
    found = compare_sweeps("first", a, "second", b)
    (one,) = found.differences
    assert (one.a_sae, one.b_sae, one.better) == ("one", "other", "b")
    assert (found.only_a, found.only_b) == (("lone",), ())


def test_of_two_partners_none_is_chosen():
    a, b = number("fvu.pooled_v1", 0.4), number("fvu.pooled_v1", 0.3, sae_id="x")
    found = compare_sweeps("first", [a], "second", [b, b.model_copy(update={"sae_id": "y"})])
    assert not found.differences and found.only_b == ("x", "y")
