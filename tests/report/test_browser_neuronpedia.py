"""Neuronpedia's files say what the dashboard says, line by line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from dashing import WORDS, corpus, dashboard, words

from sae_cli.report.browser.neuronpedia import Export

FOLDER = "exports/tiny/2-saectl-resid-post-00000000"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    text = corpus()
    found = dashboard(300, text)
    root = tmp_path_factory.mktemp("export")
    export = Export(root)
    folder = export.add(found, text, words, {"site": "resid_post", "layer": 2})
    assert folder == root / FOLDER
    assert export.finish() == 8 == len([f for f in folder.rglob("*") if f.is_file()])
    return folder, text, found


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.decode().splitlines()]


def clean(ids: Any) -> list[str]:
    return [w.encode("utf-8", "replace").decode() for w in words(ids)]


def test_the_four_tables_name_each_other(exported: Any) -> None:
    folder, _, _ = exported
    (release,), (model,), (sets,), (source,) = (
        lines(folder / f"{n}.jsonl") for n in ("release", "model", "sourceset", "source")
    )
    assert model["id"] == sets["modelId"] == source["modelId"] == "tiny"
    assert source["setName"] == sets["name"] and sets["releaseName"] == release["name"]
    assert source["id"] == f"2-{sets['name']}" == folder.name


def test_a_line_a_feature_256_to_a_file(exported: Any) -> None:
    folder, _, found = exported
    one, two = (lines(folder / "features" / f"batch-{i}.jsonl.gz") for i in (0, 1))
    assert [int(r["index"]) for r in one + two] == list(range(300)) and len(one) == 256
    for row in one + two:
        f = int(row["index"])
        assert row["frac_nonzero"] == found.fired[f] / 20_000
        assert row["pos_str"] == clean(found.up.ids[f]) and len(row["neg_values"]) == 5
        assert row["topkCosSimIndices"] == found.near.ids[f].tolist()
        assert sum(row["freq_hist_data_bar_heights"]) == found.histogram[f].sum()
        assert len(row["freq_hist_data_bar_values"]) == len(row["freq_hist_data_bar_heights"])
        assert row["maxActApprox"] == pytest.approx(found.largest[f])


def test_a_line_an_example_with_its_tokens_values_and_group(exported: Any) -> None:
    folder, text, found = exported
    rows = [r for i in (0, 1) for r in lines(folder / "activations" / f"batch-{i}.jsonl.gz")]
    assert len(rows) == 299 * 10 and len({r["id"] for r in rows}) == len(rows)
    mine = [r for r in rows if r["index"] == "12"]
    for row, number in zip(mine, [*found.top.number[12], *found.sample.number[12]], strict=True):
        assert row["tokens"] == clean(text.ids(int(number)))
        assert len(row["values"]) == len(row["tokens"])
        assert row["maxValue"] == pytest.approx(max(row["values"]), rel=1e-5)
        assert row["values"][row["maxValueTokenIndex"]] == max(row["values"])
    assert {(r["binMin"], r["binMax"]) for r in mine[:4]} == {(-1.0, -1.0)}
    for row in mine[4:]:
        assert 0 < row["binMin"] <= row["maxValue"] + 1e-6 <= row["binMax"] + 2e-6
        assert row["binContains"] == pytest.approx(1 / 3)


def test_the_same_data_makes_the_same_bytes(exported: Any, tmp_path: Path) -> None:
    folder, text, found = exported
    again = Export(tmp_path).add(found, text, words, {"site": "resid_post", "layer": 2})
    for file in filter(Path.is_file, folder.rglob("*")):
        assert (again / file.relative_to(folder)).read_bytes() == file.read_bytes()
    assert len(WORDS) == 200
