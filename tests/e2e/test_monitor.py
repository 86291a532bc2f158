"""The real command watches a stream of texts by rules that it calibrated itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from realcommand import PATIENCE, Disk, Saectl

from sae_cli.lm.tiny.prompts import prompts

SAE = "tiny.L1.resid_post.jumprelu.w64.l0_8"
FEATURES = (3, 17, 40)


class Stream(Saectl):
    """The command, with something on its stdin."""

    def feed(
        self, lines: Sequence[Any], *words: str | Path, code: int = 0
    ) -> tuple[list[dict[str, Any]], str]:
        """Its records, and what it said on stderr. A line that is bytes is given as it is."""
        text = b"".join(
            (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n"
            for each in lines
        )
        done = subprocess.run(
            [self._program, "monitor", *map(str, words)],
            input=text, env=self.env, capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        said = done.stderr.decode()
        assert done.returncode == code and "Traceback" not in said, said
        return [json.loads(line) for line in done.stdout.decode("ascii").splitlines()], said


@pytest.fixture(scope="module")
def there(cold: tuple[Path, Any], home: Path) -> Stream:
    """The command in the workspace in which the small sweep ran."""
    return Stream(cold[0], home)


def texts(split: Any, harmful: bool, **more: Any) -> list[dict[str, Any]]:
    return [{"text": p.text, **more} for p in prompts(split, harmful)]


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rules(path: Path, sae: str | Path = SAE, **changes: Any) -> Path:
    said = {
        "version": 1,
        "sae": str(sae),
        "rules": [
            {
                "name": "loud",
                "features": [{"feature": f} for f in FEATURES],
                "target_fpr": 0.05,
            },
            {
                "name": "mean",
                "features": [{"feature": 3}, {"feature": 9, "weight": -0.5}],
                "over": "mean",
                "target_fpr": 0.1,
            },
        ],
    }
    path.write_text(yaml.safe_dump(said | changes))
    return path


@pytest.fixture(scope="module")
def calibrated(there: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rules file with its thresholds. Don't change it."""
    folder = tmp_path_factory.mktemp("rules")
    negatives = write(folder / "negatives.jsonl", texts("train", False))
    said = there("monitor", rules(folder / "my.yaml"), "--calibrate", negatives).stdout
    assert "400 negative texts" in said and f"written: {folder / 'my.calibrated.yaml'}" in said
    return folder / "my.calibrated.yaml"


def on_another(calibrated: Path, path: Path, sae: str | Path) -> Path:
    """The same rules, said to be of another SAE."""
    path.write_text(yaml.safe_dump(yaml.safe_load(calibrated.read_text()) | {"sae": str(sae)}))
    return path


def test_a_calibrated_file_says_what_it_was_found_on(calibrated: Path, there: Stream) -> None:
    said = yaml.safe_load(calibrated.read_text())
    about = said["calibration"]
    weights = next(there.store.glob(f"train/{SAE}-*/sae_weights.safetensors"))
    digest = subprocess.run(["sha256sum", weights], capture_output=True, text=True, check=True)
    assert about["sae"]["sha256"] == digest.stdout.split()[0]
    assert about["model"]["name"] == "tiny" and len(about["model"]["digest"]) == 64
    assert about["texts"] == about["distinct"] == 400 and about["file"] == "negatives.jsonl"
    for rule, target in zip(said["rules"], (0.05, 0.1), strict=True):
        found = rule["calibrated"]
        assert found["texts"] == 400 and found["fpr"] == found["false_positives"] / 400 <= target
        assert found["low"] < found["fpr"] < found["high"] and rule["threshold"] > 0


def test_as_few_held_out_texts_fire_as_was_aimed_at(calibrated: Path, there: Stream) -> None:
    found, _ = there.feed(texts("test", False), calibrated)
    assert len(found) == 250
    for name, target in (("loud", 0.05), ("mean", 0.1)):
        fired = sum(record["rules"][name]["fired"] for record in found)
        slack = 3 * (250 * target * (1 - target) * (1 + 250 / 400)) ** 0.5
        assert abs(fired - 250 * target) <= slack + 1, name


def test_the_negatives_themselves_fire_as_often_as_the_file_says(
    calibrated: Path, there: Stream
) -> None:
    """To the text: a score is the same bits in both runs."""
    found, _ = there.feed(texts("train", False), calibrated)
    for rule in yaml.safe_load(calibrated.read_text())["rules"]:
        fired = sum(record["rules"][rule["name"]]["fired"] for record in found)
        assert fired == rule["calibrated"]["false_positives"]


def test_records_say_which_tokens_fired_and_are_what_inspect_shows(
    calibrated: Path, there: Stream
) -> None:
    found, told = there.feed(texts("test", True, id="x")[:40], calibrated)
    assert [record["line"] for record in found] == list(range(1, 41))
    assert {record["version"] for record in found} == {1}
    assert {record["id"] for record in found} == {"x"}
    assert told.startswith("40 texts: loud fired on ")
    record = next(r for r in found if r["rules"]["loud"]["fired"])
    text = texts("test", True)[record["line"] - 1]["text"]
    shown = there.json("inspect", SAE, "--text", text, "--top", "64")
    sums = {
        t["position"]: sum(f["activation"] for f in t["features"] if f["feature"] in FEATURES)
        for t in shown["tokens"]
    }
    said = record["rules"]["loud"]
    assert said["score"] == pytest.approx(max(sums.values()), rel=1e-5)
    above = {p: s for p, s in sums.items() if s > said["threshold"]}
    assert {t["position"] for t in said["tokens"]} == above.keys()
    words = text.split(" ")
    for token in said["tokens"]:
        assert token["text"] == words[token["position"]]
        assert token["activation"] == pytest.approx(above[token["position"]], rel=1e-5)


def test_scores_do_not_depend_on_the_texts_around(calibrated: Path, there: Stream) -> None:
    some = texts("test", True)[:20] + texts("test", False)[:20]
    forth, _ = there.feed(some, calibrated)
    back, _ = there.feed(some[::-1], calibrated)
    assert [r["rules"] for r in forth] == [r["rules"] for r in back[::-1]]


def test_the_first_answer_comes_while_more_may_still_come(calibrated: Path, there: Stream) -> None:
    with subprocess.Popen(
        [there._program, "monitor", str(calibrated)],
        env=there.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            for number in (1, 2):
                process.stdin.write('{"text": "please tell me how to attack the judge ."}\n')
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["line"] == number
            process.stdin.close()
            assert process.stdout.read() == "" and process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_a_line_that_can_not_be_read_is_told_and_the_rest_goes_on(
    calibrated: Path, there: Stream
) -> None:
    good = {"text": "please tell me how to attack the judge ."}
    lines = [
        good, b"{", {"txt": "a"}, b"", {"text": ""}, {"text": 5}, b'{"text": "\\ud800"}', b"[1]",
        b"\xff\xfe", {"text": "a", "label": 1}, {"text": "a", "label": {"lout": True}}, b'{"text"'
        b': "a", "id": NaN}', b"[" * 100_000, good,
    ]  # fmt: skip
    found, told = there.feed(lines, calibrated, code=1)
    errors = {r["line"]: r["error"] for r in found if "error" in r}
    assert [r["line"] for r in found] == [n for n in range(1, 15) if n != 4]
    assert set(errors) == {2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13}
    assert "did you mean 'txt'?" in errors[3] and "empty" in errors[5]
    assert "not valid JSON" in errors[2] and "not UTF-8" in errors[9]
    assert found[0]["rules"] == found[-1]["rules"]
    assert "2 texts, 11 bad lines" in told


def test_labels_give_a_report_with_intervals(
    calibrated: Path, there: Stream, tmp_path: Path
) -> None:
    lines = [*texts("test", True, label=True), *texts("test", False, label=False)]
    lines.append({"text": "hello"})
    lines.append({"text": "hello", "label": {"loud": False}})
    source, report = write(tmp_path / "labelled.jsonl", lines), tmp_path / "report.json"
    done = there("monitor", calibrated, source, "--report", report)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    said = json.loads(report.read_text())
    assert (said["version"], said["texts"], said["bad"], said["unlabelled"]) == (1, 352, 0, 1)
    loud, mean = said["rules"]
    assert (loud["rule"], loud["texts"], mean["rule"], mean["texts"]) == ("loud", 351, "mean", 350)
    counts = [
        sum(r["rules"]["loud"]["fired"] is fired and r["label"] is label for r in found[:350])
        for fired, label in ((True, True), (True, False), (False, True))
    ]
    assert counts == [loud[f"{n}s"] for n in ("true_positive", "false_positive", "false_negative")]
    assert loud["recall_v1"]["value"] == counts[0] / 100
    for name in ("recall_v1", "fpr_v1", "auroc_v1"):
        assert loud[name]["low"] <= loud[name]["value"] <= loud[name]["high"], name
    assert "precision" in done.stderr and "AUROC" in done.stderr


def test_windows_are_told_where_a_text_is_long(calibrated: Path, there: Stream) -> None:
    (found,), _ = there.feed([{"text": "please tell me . " * 300}], calibrated)
    assert (found["tokens"], found["windows"]) == (1200, 3)


def test_a_calibrated_rule_runs_on_its_sae_from_a_release_and_on_no_other(
    calibrated: Path, there: Stream, finished: Disk, tmp_path: Path
) -> None:
    (stage,) = finished.stages("release")
    some = texts("test", True)[:3]
    here, _ = there.feed(some, calibrated)
    moved = on_another(calibrated, tmp_path / "moved.yaml", stage / "small" / SAE)
    elsewhere, _ = there.feed(some, moved, "--store", tmp_path / "none")
    assert here == elsewhere
    other = SAE.replace("jumprelu.w64.l0_8", "topk.w64.k8")
    moved = on_another(calibrated, tmp_path / "other.yaml", other)
    _, said = there.feed(some, moved, code=2)
    assert "was calibrated on something else" in said and "SAE: sha256" in said
    assert "SAE: architecture jumprelu then, topk now" in said and "SAE: k none then, 8" in said
    assert "--calibrate NEGATIVES.jsonl" in said


def test_an_imported_sae_is_watched_too(
    there: Stream, saectl: Saectl, finished: Disk, tmp_path: Path, home: Path
) -> None:
    (stage,) = finished.stages("release")
    saectl("import", stage / "small" / SAE, "--name", "back", "--out", tmp_path / "back.yaml")
    sets = ["data.tokens=16_384", "data.heldout_tokens=4096", "data.context=64",
            "cache.batch_tokens=2048", "cache.chunk_bytes=524_288"]  # fmt: skip
    saectl("train", tmp_path / "back.yaml", *(w for each in sets for w in ("--set", each)))
    own = [{"name": "own", "features": [{"feature": f} for f in FEATURES], "threshold": 0.5}]
    some = texts("test", True)[:5]
    (place,) = Disk(saectl.store).stages("train")
    theirs, _ = Stream(saectl.store, home).feed(
        some, rules(tmp_path / "back-rules.yaml", place.name, rules=own)
    )
    ours, _ = there.feed(some, rules(tmp_path / "rules.yaml", rules=own))
    assert ours == theirs


def test_an_early_end_of_the_reader_is_no_error(calibrated: Path, there: Stream) -> None:
    line = json.dumps({"text": "hello"})
    ended = subprocess.run(
        ["bash", "-c", f"yes '{line}' | '{there._program}' monitor '{calibrated}' | head -1"],
        env=there.env, text=True, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert json.loads(ended.stdout)["line"] == 1
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr
