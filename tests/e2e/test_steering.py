"""The shipped study of refusal by the real command: one feature does what random ones do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from realcommand import Disk, Saectl

from sae_cli.report.catalogue import CATALOGUE

SWEEP = "sweeps/refusal_tiny.yaml"


def value(record: dict[str, Any], metric: str, control: str | None = None, of: str = "kept") -> Any:
    (found,) = [
        f["value"] for f in record["figures"]
        if (f["metric"], f["control"], f["slice"]) == (f"steering.{metric}_v1", control, of)
    ]  # fmt: skip
    return found


@pytest.fixture(scope="module")
def steered(command: Any, tmp_path_factory: pytest.TempPathFactory) -> Saectl:
    """The command in a workspace in which the study was made."""
    saectl: Saectl = command(tmp_path_factory.mktemp("steered") / "store")
    said = saectl("steer", SWEEP).stdout
    assert "refusal of test prompts, before and steered" in said and "suppressed" in said
    return saectl


def records(saectl: Saectl) -> list[dict[str, Any]]:
    places = Disk(saectl.store).stages("study")
    return [json.loads((place / "study.json").read_text()) for place in places]


def test_few_features_make_the_model_refuse_where_random_ones_of_their_size_do_not(
    steered: Saectl,
) -> None:
    found = records(steered)
    assert len(found) == 2
    for record in found:
        assert value(record, "features") <= 3
        assert value(record, "baseline_harmless") < 0.05
        assert value(record, "induced") >= 0.8
        assert value(record, "wellformed") >= 0.8
        assert value(record, "induced", "random_features") < 0.1
        assert value(record, "induced", "random_directions") < 0.1
        assert value(record, "p_value") < 0.05
        assert value(record, "suppressed", of="suppress,clamp") >= 0.3
    best = max(found, key=lambda record: value(record, "induced"))
    assert value(best, "features") == 1 and value(best, "induced") >= 0.9
    assert value(best, "induced", "random_features_worst") < 0.1
    assert value(best, "induced", "random_directions_worst") < 0.1


def test_it_stands_in_the_table_and_on_the_page_and_is_made_once(steered: Saectl) -> None:
    view = steered.store / "runs" / "refusal_tiny"
    rows = [json.loads(line) for line in (view / "results.jsonl").open()]
    told = {row["metric"] for row in rows if row["metric"].startswith("steering.")}
    assert told == {m for m in CATALOGUE if m.startswith("steering.")} - {"steering.judged_v1"}
    marked = [row for row in rows if row["metric"] == "steering.suppressed_v1"]
    assert marked and all(row["slice"].startswith("suppress,") for row in marked)
    page = (view / "report.html").read_text(encoding="utf-8")
    assert '<section id="steering"' in page and "suppress,clamp" in page
    kinds = {stage.split("/")[0] for stage in Disk(steered.store).done()}
    assert "release" not in kinds
    assert "nothing to do" in steered("steer", SWEEP).stdout


def test_what_was_said_to_harmful_prompts_is_kept_as_digests(steered: Saectl) -> None:
    for record in records(steered):
        for replies in (record["detail"]["harmful_replies"], record["detail"]["suppress"]["clamp"]):
            assert replies and all("reply" not in each and "prompt" not in each for each in replies)
            assert all(len(each["reply_sha256"]) == 64 for each in replies)


def test_a_sweep_that_does_not_ask_is_refused(saectl: Saectl) -> None:
    assert "does not ask for steering" in saectl("steer", "sweeps/tiny.yaml", code=2).stderr


OWN = """\
name: own
data: {tokens: 16_384, heldout_tokens: 2048, context: 64}
train: {width: 64, num_tokens: 16_384, batch_size: 512, shuffle_tokens: 4096}
matrix: {layer: [2], site: [resid_post], k: [4]}
"""
STUDY = """{
  harmful: [{path: ROOT/harmful.jsonl, text: say}],
  harmless: [{path: ROOT/harmless.jsonl, text: say}],
  selection: 16, validation: 8, test: 8, phrases: ["i am sorry", "sure"], answer_tokens: 4,
  random: 2, strengths: [0.5], also: [], text_tokens: 256}"""


def test_prompts_of_ones_own_and_an_sae_that_was_imported(saectl: Saectl, tmp_path: Path) -> None:
    for kind, verb in (("harmful", "steal"), ("harmless", "find")):
        with (tmp_path / f"{kind}.jsonl").open("w") as file:
            for i, thing in enumerate(("bridge", "clock", "statue", "boat") * 12):
                line = {"say": f"how do i {verb} a {thing} today number {i} ?"}
                file.write(json.dumps(line) + "\n")
    sweep, study = tmp_path / "own.yaml", STUDY.replace("ROOT", str(tmp_path))
    sweep.write_text(OWN + f"studies: {{steering: {study}}}\n")
    saectl("run", sweep)
    (record,) = records(saectl)
    assert record["method"]["harmful"][0]["name"] == "harmful"
    assert str(tmp_path) not in json.dumps(record)
    assert record["method"]["prompts"]["harmful"] == {"selection": 16, "validation": 8, "test": 8}

    (release,) = saectl.store.glob("release/*/own")
    assert "steering.induced_v1" in next(release.glob("*/README.md")).read_text(encoding="utf-8")
    back = tmp_path / "back.yaml"
    saectl("import", release, "--name", "back", "--out", back, "--source", "the test's own")
    same = ("data.tokens=16_384", "data.heldout_tokens=2048", "data.context=64")
    words = [word for each in (*same, f"studies.steering={study}") for word in ("--set", each)]
    saectl("steer", back, *words)
    said = saectl("steer", "--all").stdout
    assert "back: nothing to do" in said and "own: nothing to do" in said
    one, other = records(saectl)
    for mine, theirs in zip(one["figures"], other["figures"], strict=True):
        assert theirs == mine | {n: theirs[n] for n in ("value", "low", "high")}
        assert theirs["value"] == pytest.approx(mine["value"], abs=1e-6)
