"""What `monitor` and `inspect` refuse, and in which words: on SAEs that nobody trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from handmade import TEXT, own, write_sae

from sae_cli.errors import FAILED, OK, USAGE

RULES = [
    {"name": "loud", "features": [{"feature": 3}, {"feature": 7}], "target_fpr": 0.25},
    {"name": "mean", "features": [{"feature": 1}], "over": "mean", "target_fpr": 0.5},
]
NEGATIVES = [{"text": text} for text in ("hello .", "the judge", "anna went to the park", "a b")]


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    return write_sae(tmp_path / "sae", own())


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rules(path: Path, sae: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({"version": 1, "sae": str(sae), "rules": RULES} | changes))
    return path


@pytest.fixture
def calibrated(saectl: Callable[..., Any], sae: Path, tmp_path: Path) -> Path:
    """A rules file with its thresholds."""
    negatives = write(tmp_path / "negatives.jsonl", NEGATIVES)
    said = saectl("monitor", rules(tmp_path / "my.yaml", sae), "--calibrate", negatives)
    assert said.code == OK, said.err
    assert f"next: saectl monitor {tmp_path / 'my.calibrated.yaml'} < texts.jsonl" in said.out
    return tmp_path / "my.calibrated.yaml"


def test_calibrated_rules_run_and_fire_on_as_many_negatives_as_they_say(
    saectl: Callable[..., Any], calibrated: Path, tmp_path: Path
) -> None:
    said = saectl("monitor", calibrated, tmp_path / "negatives.jsonl")
    records = [json.loads(line) for line in said.out.splitlines()]
    fired = [sum(r["rules"][name]["fired"] for r in records) for name in ("loud", "mean")]
    assert said.code == OK and fired == [1, 2]


@pytest.mark.parametrize(
    ("path", "to", "why"),
    [
        (("calibration", "model", "digest"), "0" * 64, "model: digest 000000000000... then"),
        (("calibration", "model", "revision"), "abc", "model: revision abc then, none now"),
        (("calibration", "model", "dtype"), "bfloat16", "model: dtype bfloat16 then, float32 now"),
        (("calibration", "model", "tokenizer"), "0" * 64, "model: tokenizer 0000"),
        (("calibration", "sae", "sha256"), "0" * 64, "SAE: sha256 000000000000... then"),
        (("calibration", "sae", "outlier_norm"), 1.0, "SAE: outlier_norm 1.0 then, none now"),
        (("rules", 0, "features", 0, "feature"), 5, "have changed since"),
        (("rules", 0, "features", 0, "weight"), 2.0, "have changed since"),
        (("rules", 0, "threshold"), 0.5, "its threshold is 0.5, and "),
        (("rules", 0, "over"), "mean", "have changed since"),
        (("chat",), True, "have changed since"),
        (("calibration",), None, "is gone"),
    ],
)
def test_what_is_not_as_it_was_calibrated_is_refused(
    saectl: Callable[..., Any], calibrated: Path, path: tuple[Any, ...], to: Any, why: str
) -> None:
    said = yaml.safe_load(calibrated.read_text())
    here = said
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = to
    calibrated.write_text(yaml.safe_dump(said))
    answer = saectl("monitor", calibrated, calibrated.with_name("negatives.jsonl"))
    assert (answer.code, answer.out) == (USAGE, "") and why in answer.err


def test_another_sae_at_the_same_place_is_refused_by_its_weights(
    saectl: Callable[..., Any], calibrated: Path, sae: Path
) -> None:
    write_sae(sae, own(), seed=1)
    answer = saectl("monitor", calibrated, calibrated.with_name("negatives.jsonl"))
    assert answer.code == USAGE and "SAE: sha256" in answer.err
    assert "was calibrated on something else" in answer.err and "model:" not in answer.err


def test_its_name_may_change(saectl: Callable[..., Any], calibrated: Path, sae: Path) -> None:
    sae.rename(sae.with_name("renamed"))
    calibrated.write_text(calibrated.read_text().replace(str(sae), str(sae.with_name("renamed"))))
    assert saectl("monitor", calibrated, calibrated.with_name("negatives.jsonl")).code == OK


def test_a_rule_without_threshold_is_refused_and_one_of_ones_own_runs(
    saectl: Callable[..., Any], sae: Path, tmp_path: Path
) -> None:
    texts = write(tmp_path / "texts.jsonl", [{"text": "hello"}])
    said = saectl("monitor", rules(tmp_path / "my.yaml", sae), texts)
    assert said.code == USAGE and "rule loud" in said.err and "has no threshold" in said.err
    mine = [{"name": "own", "features": [{"feature": 3}], "threshold": -1.0}]
    said = saectl("monitor", rules(tmp_path / "own.yaml", sae, rules=mine), texts)
    assert said.code == OK and json.loads(said.out)["rules"]["own"]["fired"] is True
    assert "no token" not in said.err and "tokens of extreme norm" in said.err


@pytest.mark.parametrize(
    ("lines", "code", "why"),
    [
        (NEGATIVES[:3], FAILED, "rule loud: a false-positive rate of 0.25 needs 4 negative texts"),
        ([{"text": "hello", "label": True}], FAILED, ":1: it is labelled true"),
        ([{"text": "hello", "label": {"mean": True}}], FAILED, ":1: it is labelled true"),
        ([{"text": "hello"}, {"txt": "hello"}], FAILED, ":2: no field 'text'  did you mean 'txt'?"),
        ([{"text": ""}], FAILED, ":1: the text is empty"),
    ],
)
def test_calibration_refuses_what_it_can_not_promise(
    saectl: Callable[..., Any], sae: Path, tmp_path: Path, lines: list[Any], code: int, why: str
) -> None:
    negatives = write(tmp_path / "some.jsonl", lines)
    said = saectl("monitor", rules(tmp_path / "my.yaml", sae), "--calibrate", negatives)
    assert (said.code, said.out) == (code, "") and why in said.err
    assert not list(tmp_path.glob("*.calibrated.yaml"))


def test_a_file_in_the_way_is_replaced_only_if_told(
    saectl: Callable[..., Any], calibrated: Path, tmp_path: Path
) -> None:
    words = ("monitor", tmp_path / "my.yaml", "--calibrate", tmp_path / "negatives.jsonl")
    before = calibrated.read_text()
    calibrated.write_text("mine")
    said = saectl(*words)
    assert said.code == USAGE and "is there already" in said.err and "--yes" in said.err
    assert calibrated.read_text() == "mine"
    assert saectl(*words, "--yes").code == OK and calibrated.read_text() == before
    assert saectl(*words, "--out", tmp_path / "other.yaml").code == OK
    assert (tmp_path / "other.yaml").read_text() == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("none.yaml",), "none.yaml: No such file"),
        (("my.yaml", "--calibrate", "none"), "--calibrate none: there is no such file"),
        (("bare.yaml", "--calibrate", "some.jsonl"), "no rule of bare.yaml has a target_fpr"),
        (("half.yaml", "--calibrate", "some.jsonl"), "rule a of half.yaml has neither"),
        (("my.yaml", "some.jsonl", "--calibrate", "some.jsonl"), "leave the rest out"),
        (("my.yaml", "--out", "x"), "give that too"),
        (("own.yaml", "none.jsonl"), "none.jsonl: No such file"),
        (("far.yaml", "some.jsonl"), "rule far: the SAE has no feature 24, it has 24, 0 to 23"),
        (("lost.yaml", "some.jsonl"), "nowhere: no trained SAE in"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    saectl: Callable[..., Any],
    sae: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    one = {"features": [{"feature": 1}]}
    write(tmp_path / "some.jsonl", NEGATIVES)
    rules(tmp_path / "my.yaml", sae)
    rules(tmp_path / "bare.yaml", sae, rules=[{"name": "a", "threshold": 1.0, **one}])
    rules(tmp_path / "half.yaml", sae, rules=[{"name": "a", **one}, RULES[0]])
    rules(tmp_path / "own.yaml", sae, rules=[{"name": "a", "threshold": 1.0, **one}])
    far = [{"name": "far", "features": [{"feature": 24}], "threshold": 1.0}]
    rules(tmp_path / "far.yaml", sae, rules=far)
    rules(tmp_path / "lost.yaml", Path("nowhere"), rules=far)
    said = saectl("monitor", *words)
    assert (said.code, said.out) == (USAGE, "") and why in said.err


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), USAGE, "give a text: --text '...', or --file FILE"),
        (("--text", "a", "--file", "b"), USAGE, "give a text"),
        (("--text", TEXT, "--position", "9"), USAGE, "the text has 9 tokens, 0 to 8"),
        (("--text", TEXT, "--token", "judg"), USAGE, "did you mean 'judge'?"),
        (("--file", "nofile"), USAGE, "nofile: No such file"),
        (("--text", ""), FAILED, "the text is empty"),
        (("--text", "\udcff"), FAILED, "the text is not UTF-8"),
        (("--text", "the " * 600), FAILED, "600 tokens, and the model reads 511"),
    ],
)
def test_inspect_says_what_is_wrong(
    saectl: Callable[..., Any], sae: Path, words: tuple[str, ...], code: int, why: str
) -> None:
    said = saectl("inspect", sae, *words)
    assert (said.code, said.out) == (code, "") and why in said.err


def test_what_a_terminal_would_obey_is_spelt_out() -> None:
    from sae_cli.cli.plainly import plainly

    assert plainly("a\n\x1b[31mb\u202ec\x9b é 語") == "a\\n\\x1b[31mb\\u202ec\\x9b é 語"
