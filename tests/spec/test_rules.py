"""A rules file is checked whole, with the place of every problem, and is read as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_cli.errors import SpecError, UsageError
from sae_cli.spec.rules import (
    Calibrated,
    Calibration,
    ModelIdentity,
    Rules,
    SaeIdentity,
    load_rules,
    written,
)

GOOD = """\
version: 1
sae: tiny.L2.resid_post.topk.w512.k4
chat: true
rules:
  - name: harm
    features: [{feature: 12}, {feature: 3, weight: -0.5}]
    target_fpr: 0.01
  - {name: loud, features: [{feature: 0}], over: mean, threshold: 1e-3}
"""


def read(tmp_path: Path, text: str) -> Rules:
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    return load_rules(tmp_path / "rules.yaml")


def test_a_good_file_says_what_it_says(tmp_path: Path) -> None:
    rules = read(tmp_path, GOOD)
    harm, loud = rules.rules
    assert [(each.feature, each.weight) for each in harm.features] == [(12, 1.0), (3, -0.5)]
    assert (harm.over, harm.threshold, harm.target_fpr) == ("max", None, 0.01)
    assert (loud.over, loud.threshold, loud.target_fpr) == ("mean", 0.001, None)
    assert rules.chat and rules.text == "text" and rules.max_tokens is None


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("sae: tiny", "sea: tiny", ["2:1: sea: unknown key  did you mean 'sae'?", "'sae' is miss"]),
        ("feature: 12", "featur: 12", ["6:17: rules.0.features.0.featur: unknown key  did you"]),
        ("feature: 12", "feature: -1", ["6:26: rules.0.features.0.feature: -1 is less than 0"]),
        ("feature: 12", "feature: 3", ["6:15: rules.0.features: feature 3 is given twice"]),
        ("feature: 12", "feature: 1.5", ["6:26: rules.0.features.0.feature: 1.5 is not a whole"]),
        ("0.01", "1", ["7:17: rules.0.target_fpr: 1 is not less than 1"]),
        ("0.01", "0.0", ["7:17: rules.0.target_fpr: 0.0 is not greater than 0"]),
        ("over: mean", "over: maen", ["'maen' is not one of max, mean  did you mean 'mean'?"]),
        ("name: loud", "name: harm", ["5:3: rules: two rules are called harm"]),
        ("name: harm", "name: do harm", ["'do harm' is not a name of letters"]),
        ("threshold: 1e-3", "treshold: 1", ["did you mean 'threshold'?"]),
        ("threshold: 1e-3", "threshold: .inf", ["inf is not a finite number"]),
        ("version: 1", "version: 2", ["1:10: version: 2 is not one of 1"]),
        ("chat: true", "chat: maybe", ["3:7: chat: 'maybe' is not true or false"]),
        ("chat: true", "chat: true\nchat: false", ["4:1: chat: this key was already given"]),
        ("chat: true", "max_tokens: 1", ["3:13: max_tokens: 1 is less than 2"]),
    ],
)
def test_a_wrong_one_is_told_with_its_place(
    tmp_path: Path, right: str, wrong: str, said: list[str]
) -> None:
    assert right in GOOD
    with pytest.raises(SpecError) as caught:
        read(tmp_path, GOOD.replace(right, wrong))
    for words in said:
        assert words in str(caught.value)


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    wrong = GOOD.replace("feature: 12", "featur: 12").replace("over: mean", "over: maen")
    with pytest.raises(SpecError, match="3 problems"):
        read(tmp_path, wrong)


@pytest.mark.parametrize("text", ["- a\n", "just words\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match="a rules file is a mapping of keys"):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_rules(tmp_path / "none.yaml")


def calibrated(rules: Rules) -> Rules:
    about = Calibrated(
        rule=rules.rules[0].digest(rules), threshold=0.1 + 0.2, target_fpr=0.01, texts=300,
        false_positives=3, fpr=0.01, low=0.002, high=0.03, expected_fpr=4 / 301,
    )  # fmt: skip
    sae = SaeIdentity(
        name="x", sha256="0" * 64, architecture="topk", k=4, layer=2, site="resid_post",
        mask={"special": True, "outlier_multiple": 10.0}, outlier_norm=110.71524620056152,
    )  # fmt: skip
    model = ModelIdentity(
        name="tiny", revision=None, digest="1" * 64, dtype="float32", attn_implementation="sdpa",
        reinit=None, tokenizer="2" * 64,
    )  # fmt: skip
    calibration = Calibration(
        saectl="0.1.0", device="cpu", sae=sae, model=model, file="n.jsonl", sha256="3" * 64,
        texts=300, distinct=299,
    )  # fmt: skip
    first = rules.rules[0].model_copy(update={"threshold": 0.1 + 0.2, "calibrated": about})
    return rules.model_copy(update={"rules": (first, *rules.rules[1:]), "calibration": calibration})


def test_what_is_written_is_read_to_the_last_bit(tmp_path: Path) -> None:
    rules = calibrated(read(tmp_path, GOOD))
    text = written(rules)
    again = read(tmp_path, text)
    assert again == rules and again.rules[0].threshold == 0.1 + 0.2
    assert text.startswith("# Thresholds found by saectl monitor --calibrate")
    assert written(again) == text


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"sae": "elsewhere"}, True),
        ({"text": "prompt"}, True),
        ({"chat": False}, False),
        ({"max_tokens": 64}, False),
    ],
)
def test_the_digest_of_a_rule_holds_what_decides_its_scores(
    tmp_path: Path, change: dict[str, Any], same: bool
) -> None:
    rules = read(tmp_path, GOOD)
    other = rules.model_copy(update=change)
    assert (rules.rules[0].digest(rules) == other.rules[0].digest(other)) is same


def test_the_digest_holds_features_weights_and_target_but_no_name(tmp_path: Path) -> None:
    rules = read(tmp_path, GOOD)
    digests = {rules.rules[0].digest(rules)}
    for right, wrong in (("weight: -0.5", "weight: 0.5"), ("12", "13"), ("0.01", "0.02")):
        other = read(tmp_path, GOOD.replace(right, wrong))
        digests.add(other.rules[0].digest(other))
    assert len(digests) == 4
    renamed = read(tmp_path, GOOD.replace("harm", "ham"))
    assert renamed.rules[0].digest(renamed) in digests
