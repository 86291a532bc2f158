"""The elbow of an error over width, on curves whose bend is known."""

from __future__ import annotations

import pytest

from sae_cli.report.elbow import METRIC, elbow, elbows
from sae_cli.report.results import SaeRow

WIDTHS = (256, 512, 1024, 2048)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.9, 0.3, 0.29, 0.28), 512),
        ((0.9, 0.6, 0.2, 0.19), 1024),
        ((0.4, 0.3, 0.2, 0.1), None),
        ((0.4, 0.39, 0.38, 0.1), None),
        ((0.1, 0.1, 0.1, 0.1), None),
        ((0.1, 0.2, 0.3, 0.4), None),
    ],
    ids=["early", "late", "straight", "bent outwards", "flat", "rising"],
)
def test_the_elbow_lies_deepest_below_the_line_between_the_ends(values, expected):
    assert elbow(WIDTHS, values) == expected


def test_scaling_the_error_moves_no_elbow():
    values = (0.9, 0.5, 0.35, 0.3)
    assert elbow(WIDTHS, values) == elbow(WIDTHS, [1e-6 * v + 7 for v in values]) == 512


def row(width: int, value: float | None, **more: object) -> SaeRow:
    fields = {
        "slug": "s", "train_key": "t", "eval_key": "e", "model": "tiny", "layer": 2,
        "site": "resid_post", "out_site": None, "arch": "topk", "width": width, "variant": "k8",
        "metrics": {METRIC: value}, "path": "p",
    }  # fmt: skip
    return SaeRow.model_validate(fields | more)


def test_saes_are_grouped_by_all_but_their_width_and_too_few_have_no_elbow():
    many = [row(w, v) for w, v in zip(WIDTHS[::-1], (0.28, 0.29, 0.3, 0.9), strict=True)]
    (found,) = elbows([*many, row(256, 0.5, layer=3), row(512, 0.4, layer=3), row(64, None)])
    assert (found.layer, found.widths, found.width) == (2, WIDTHS, 512)
    assert found.values == (0.9, 0.3, 0.29, 0.28)


def test_two_saes_of_one_width_are_no_curve():
    assert elbows([row(256, 0.9), row(256, 0.8), row(512, 0.3), row(1024, 0.2)]) == []
