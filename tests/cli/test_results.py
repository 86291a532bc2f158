"""`saectl results` and `compare`, on records alone: no tensor is read or computed."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from sae_cli.cli.app import _run
from sae_cli.plan.place import folder
from sae_cli.report.table import COLUMNS
from sae_cli.store.atomic import write_json

REASON = "the kept tokens do not vary"


def measured(ran, *, controls=(), slices=None):
    """Give the evaluations the files that they would leave."""
    ran.finish("tokens", "cache", "train", "eval")
    for stage in ran.graph.of("eval"):
        record = {
            "metrics": {
                "l0_v1": {"value": 4.0, "reason": None},
                "fvu.pooled_v1": {"value": None, "reason": REASON},
                "ce.delta_v1": {"value": 0.25, "reason": None},
            },
            "intervals": {
                "l0_v1": {"low": 3.9, "high": 4.1, "n_docs": 7, "reason": None},
                "fvu.pooled_v1": {"low": None, "high": None, "n_docs": 7, "reason": REASON},
            },
            "bootstrap": {"seed": 5},
            "controls": list(controls),
            "slices": slices or {},
            "tokens": 100,
            "predictions": 99,
        }
        write_json(folder(ran.workspace, stage).path / "metrics.json", record)


def lines(ran):
    text = (ran.workspace.run_dir("small") / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_long_table_has_a_row_for_each_number_and_reasons_for_nulls(small, capsys):
    measured(small)
    assert _run(["results"]) == 0
    assert "fvu" not in capsys.readouterr().err
    rows = lines(small)
    assert len(rows) == 2 * 3 and all(tuple(row) == COLUMNS for row in rows)
    l0, fvu, delta = rows[:3]
    assert (l0["value"], l0["ci_low"], l0["ci_high"], l0["n_tokens"]) == (4.0, 3.9, 4.1, 100)
    assert (l0["n_seqs"], l0["eval_seed"], fvu["n_seqs"]) == (7, 5, None)
    assert (fvu["value"], fvu["null_reason"], fvu["direction"]) == (None, REASON, "down")
    assert (delta["unit"], delta["n_tokens"]) == ("nats per token", 99)
    assert {row["k_or_lambda"] for row in rows} == {4.0, 8.0}
    assert {row["d_sae"] for row in rows} == {64} and {row["slice"] for row in rows} == {"kept"}
    assert rows[0]["git_sha"] is None and rows[0]["d_in"] is None  # no record says them
    assert rows[0]["dataset_sha256"] and rows[0]["context_len"] == 128


def test_parquet_says_what_jsonl_says_and_writing_again_changes_no_byte(small):
    measured(small)
    assert _run(["results"]) == 0
    view = small.workspace.run_dir("small")
    assert pq.read_table(view / "results.parquet").to_pylist() == lines(small)
    before = [(p, p.read_bytes(), p.stat().st_mtime_ns) for p in view.glob("results.*")]
    assert len(before) == 2 and _run(["results", "--json"]) == 0
    assert [(p, p.read_bytes(), p.stat().st_mtime_ns) for p in view.glob("results.*")] == before


def test_json_holds_the_rows_under_a_version(small, capsys):
    measured(small)
    assert _run(["results", "small.yaml", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (sweep,) = said["sweeps"]
    assert said["version"] == 1 and sweep["sweep"] == "small" and sweep["rows"] == lines(small)
    delta = next(f for f in sweep["fronts"] if f["metric"] == "ce.delta_v1")
    assert len(delta["train_keys"]) == 2 and delta["of"] == 2  # equals are on it together


def test_slices_and_controls_are_rows_behind_their_sae(small):
    other = {"metrics": {"ce.delta_v1": {"value": 0.5, "reason": None}}, "predictions": 9}
    pca = {
        "name": "pca", "of": "x", "k": 4, "seed": None, "reason": None, "tokens": 100,
        "metrics": {"fvu.pooled_v1": {"value": 0.75, "reason": None}},
        "slices": {"with_outliers": {"metrics": {"l0_v1": {"value": 3.0, "reason": None}}}},
    }  # fmt: skip
    measured(small, slices={"kept": {}, "special_sources": other}, controls=[pca])
    assert _run(["results"]) == 0
    rows = lines(small)[3:6]
    told = [(r["slice"], r["arch"], r["metric"], r["value"], r["n_tokens"]) for r in rows]
    assert told == [
        ("special_sources", "topk", "ce.delta_v1", 0.5, 9),
        ("kept", "pca", "fvu.pooled_v1", 0.75, 100),
        ("with_outliers", "pca", "l0_v1", 3.0, None),
    ]
    assert [r["control_of"] for r in rows] == [None, rows[0]["sae_id"], rows[0]["sae_id"]]
    assert (rows[1]["k_or_lambda"], rows[1]["seed"], rows[1]["sae_sha256"]) == (4.0, None, None)
    assert rows[1]["d_sae"] is None and rows[0]["d_sae"] == 64


def test_a_record_without_reasons_says_that_it_has_none(small):
    small.finish("tokens", "cache", "train", "eval")
    assert _run(["results"]) == 0
    (fvu, *_) = [row for row in lines(small) if row["metric"] == "fvu.pooled_v1"]
    assert fvu["value"] is None and fvu["null_reason"] == "the record gives no reason"


def test_results_of_nothing_say_what_to_do(small, capsys):
    small.finish("tokens", "cache", "train")
    assert _run(["results"]) == 1
    assert "saectl eval" in capsys.readouterr().err


def test_two_saes_are_compared_by_name_or_key(small, capsys):
    measured(small)
    (_, a), (_, b) = small.graph.cells
    assert _run(["compare", a.slug, b.key, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparison"]
    assert found["valid"] and (found["a"], found["b"]) == (f"{a.slug}-{a.key}", f"{b.slug}-{b.key}")
    by_name = {d["metric"]: d for d in found["differences"]}
    assert by_name["ce.delta_v1"]["better"] == "same"
    assert by_name["l0_v1"]["a_interval"] == [3.9, 4.1]
    assert _run(["compare", a.slug, b.slug]) == 0
    assert "[3.9, 4.1]" in capsys.readouterr().out


def test_a_sweep_is_compared_with_itself_and_not_with_an_sae(small, capsys):
    measured(small)
    assert _run(["compare", "small", "small"]) == 0
    assert "same" in capsys.readouterr().out
    assert _run(["compare", "small", small.graph.cells[0][1].slug]) == 2
    assert "is a sweep" in capsys.readouterr().err


def test_an_unknown_name_gets_a_guess(small, capsys):
    measured(small)
    (_, a), (_, b) = small.graph.cells
    assert _run(["compare", a.slug + "x", b.slug]) == 2
    assert f"did you mean '{a.slug}'?" in capsys.readouterr().err
