"""Three seeds of one SAE: `results` and the report give their mean, on records alone."""

from __future__ import annotations

import json

import pytest

from sae_cli.cli.app import _run
from sae_cli.cli.session import open_sweeps
from sae_cli.plan.place import folder
from sae_cli.report.seeds import t_interval
from sae_cli.store.atomic import write_json

VALUES = {0: 0.5, 1: 0.25, 4: 0.75}


@pytest.fixture
def seeded(small):
    """`seeded(*sets)`: the sweep with these overrides was run, each SAE with its seed's value."""

    def make(*sets, lost=None):
        lines = small.spec.read_text()
        small.spec.write_text(lines.replace("k: [4, 8]", "k: [4]\n  seed: [0, 1, 4]\n  " + sets[0]))
        if len(sets) > 1:
            small.spec.write_text(small.spec.read_text() + sets[1])
        (opened,) = open_sweeps(small.spec, None, None, small.workspace, online=True)
        ran = type(small)(small.spec, small.workspace, opened.graph)
        ran.finish("tokens", "cache", "train", "eval")
        for stage in opened.graph.of("eval"):
            seed = stage.deps["train"].work.train.seed
            value = None if seed == lost else VALUES[seed]
            metrics = {
                "l0_v1": {"value": 4.0, "reason": None},
                "fvu.pooled_v1": {"value": value, "reason": None if value else "lost"},
            }
            record = {"metrics": metrics, "tokens": 100, "predictions": 99}
            write_json(folder(ran.workspace, stage).path / "metrics.json", record)
        return ran

    return make


def means(ran):
    text = (ran.workspace.run_dir("small") / "results.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["run_id"] is None], rows


def test_the_long_table_ends_with_the_means(seeded, capsys):
    ran = seeded("")
    assert _run(["results"]) == 0
    (l0, fvu), rows = means(ran)
    assert rows[-2:] == [l0, fvu] and len(rows) == 3 * 2 + 2
    low, high = t_interval(list(VALUES.values()))
    assert (fvu["value"], fvu["ci_low"], fvu["ci_high"]) == (0.5, low, high)
    assert (fvu["n_units"], fvu["seed"], fvu["slice"], fvu["n_tokens"]) == (3, None, "kept", 100)
    assert fvu["sae_id"].startswith("tiny.L1.resid_post.topk.w64.k4.seeds3-")
    assert (fvu["sae_sha256"], fvu["eval_seed"], fvu["control_of"]) == (None, None, None)
    said = capsys.readouterr().out
    assert "over seeds" in said and f"0.5000 ± {high - 0.5:.4f}" in said
    assert _run(["results", "--json"]) == 0
    (sweep,) = json.loads(capsys.readouterr().out)["sweeps"]
    (group,) = sweep["seeds"]
    assert group["seeds"] == [0, 1, 4] and group["id"] == fvu["sae_id"]
    assert group["metrics"]["fvu.pooled_v1"] == {
        "value": 0.5, "low": low, "high": high, "reason": None,
    }  # fmt: skip


def test_a_seed_without_a_value_leaves_a_null_with_its_reason(seeded):
    ran = seeded("", lost=1)
    assert _run(["results"]) == 0
    (_, fvu), _ = means(ran)
    assert fvu["value"] is None and fvu["ci_low"] is None
    assert fvu["null_reason"] == "1 of 3 seeds have no value: lost"


def test_two_seeds_are_too_few(seeded, capsys):
    ran = seeded("exclude: [{seed: 4}]")
    assert _run(["results"]) == 0
    assert means(ran)[0] == [] and "over seeds" not in capsys.readouterr().out


def test_seeds_of_a_random_model_are_a_control_of_those_of_the_model(seeded):
    ran = seeded("model: [tiny, noise]", "models: {noise: {builtin: tiny, reinit: 0}}\n")
    assert _run(["results"]) == 0
    found, rows = means(ran)
    plain, control = found[1], found[3]
    assert plain["control_of"] is None and control["control_of"] == plain["sae_id"]
    assert (plain["arch"], control["arch"]) == ("topk", "random_model")
    assert control["model_id"] == "tiny-random0"
    singles = {row["sae_id"]: row["control_of"] for row in rows if row["run_id"]}
    assert sum(like in singles for like in singles.values()) == 3


def test_the_report_has_them_as_a_table_and_as_json(seeded, chromium):
    ran = seeded("model: [tiny, noise]", "models: {noise: {builtin: tiny, reinit: 0}}\n")
    assert _run(["report"]) == 0
    page = ran.workspace.run_dir("small") / "report.html"
    chromium.open(page, 1280)
    shown = chromium.value(
        "[...document.querySelectorAll('#means tbody tr')].map(r => [...r.cells].map(c =>"
        " c.textContent))"
    )
    assert [row[1:3] for row in shown] == [["tiny", "0, 1, 4"], ["noise", "0, 1, 4"]]
    half = t_interval(list(VALUES.values()))[1] - 0.5
    assert all(row[4] == f"0.5000 ± {half:.4f}" for row in shown)
    assert ["control" in row[0] for row in shown] == [False, True]
    numbers = chromium.value("JSON.parse(document.getElementById('numbers').textContent)")
    assert len(numbers["seeds"]) == 2 and len(numbers["saes"]) == 6
    beside = [[c["name"] for c in sae["controls"]] for sae in numbers["saes"]]
    assert beside == [["random_model"], []] * 3
    assert chromium.troubles() == []
