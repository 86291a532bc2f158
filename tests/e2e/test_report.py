"""The report of SAEs that were really trained and evaluated, seen by a browser."""

from __future__ import annotations

import json
import shutil

import pytest

from sae_cli.cli.app import _run


@pytest.fixture
def page(finished, tmp_path):
    """The page of the small sweep, made in a copy of its workspace."""
    store = tmp_path / "store"
    shutil.copytree(finished.root, store, symlinks=True)
    assert _run(["report", "--store", str(store)]) == 0
    return store / "runs" / "small" / "report.html"


def test_the_browser_shows_what_the_evaluations_recorded(page, finished, chromium):
    chromium.open(page, 1280)
    shown = chromium.value(
        "Object.fromEntries([...document.querySelectorAll('#table tbody tr')].map(r =>"
        " [r.dataset.sae, Object.fromEntries([...r.querySelectorAll('[data-metric]')].map(c =>"
        " [c.dataset.metric, c.dataset.value === undefined ? null : Number(c.dataset.value)]))]))"
    )
    recorded = {
        json.loads((stage / "spec.json").read_text())["deps"]["train"]: done["summary"]["metrics"]
        for stage, done in zip(finished.stages("eval"), finished.done("eval").values(), strict=True)
    }
    assert {sae.rpartition("-")[2]: metrics for sae, metrics in shown.items()} == recorded
    assert len(recorded) == 6 and chromium.troubles() == []


def test_the_long_table_says_the_same(page, finished):
    lines = (page.parent / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    own = [r for r in rows if r["control_of"] is None and r["slice"] == "kept"]
    values = {name: done["summary"]["metrics"] for name, done in finished.done("eval").items()}
    for name, metrics in values.items():
        key = name.rpartition("-")[2]
        assert {r["metric"]: r["value"] for r in own if r["run_id"] == key} == metrics
    assert all(r["d_in"] == 64 and r["expansion"] == 1.0 and r["sae_sha256"] for r in own)
    assert all((r["value"] is None) == (r["null_reason"] is not None) for r in rows)
