"""The real command releases a suite in six formats, imports every file of it back, and judges what
came back: the numbers are those of the SAEs that were released."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doors import FORMATS, SWEEP, WRITTEN
from realcommand import Disk, Saectl

SAME_TEXT = (
    "data.tokens=16_384", "data.heldout_tokens=4096", "cache.batch_tokens=2048",
    "cache.chunk_bytes=524_288", "eval.batch_tokens=1024",
)  # fmt: skip
"""What makes the imported sweep read and judge on what the suite was read and judged on."""
SETS = [word for given in SAME_TEXT for word in ("--set", given)]
FACTS = ("l0_v1", "fvu.pooled_v1", "cosine_v1", "ce.spliced_v1", "kl.spliced_v1")


@pytest.fixture(scope="module")
def here(
    command: Callable[[Path], Saectl], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Saectl, Path]:
    """The command in a workspace that released the suite, and the release. The activations were
    freed: an import needs none."""
    folder = tmp_path_factory.mktemp("import")
    (folder / "doors.yaml").write_text(SWEEP)
    saectl = command(folder / "store")
    saectl("run", folder / "doors.yaml")
    saectl("gc", "--yes")
    (stage,) = Disk(folder / "store").stages("release")
    return saectl, stage / "doors"


@pytest.fixture(scope="module")
def back(here: tuple[Saectl, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the import said, its sweep file, and what evaluating and releasing it said."""
    saectl, release = here
    file = tmp_path_factory.mktemp("sweeps") / "back.yaml"
    wanted = [word for form in FORMATS for word in ("--format", form)]
    source = ("--source", "the test's own suite")
    said = saectl.json("import", release, *wanted, "--name", "back", "--out", file, *source)
    (run,) = saectl.json("release", file, *SETS)["sweeps"]
    return {"said": said, "file": file, "run": run}


def records(saectl: Saectl, run: Any) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """cfg.json's record and the metrics of each SAE of a run."""
    return [
        (json.loads((Path(row["path"]) / "cfg.json").read_text())["metadata"], row["metrics"])
        for row in run["results"]
    ]


def test_every_file_of_the_release_is_found_for_what_it_is(back: Any) -> None:
    said = back["said"]
    counts = {f: sum(s["format"] == f for s in said["saes"]) for f in FORMATS}
    assert counts == WRITTEN and not said["left_out"] and said["written"]
    assert {s["model"] for s in said["saes"]} == {"tiny"}
    assert {s["width"] for s in said["saes"]} == {64}


def test_what_came_back_has_the_metrics_of_what_was_released(
    here: tuple[Saectl, Path], back: Any
) -> None:
    saectl, _ = here
    trained = saectl.json("results", saectl.store.parent / "doors.yaml")
    (suite,) = trained["sweeps"]
    original: dict[str, dict[str, float]] = {}
    for row in suite["rows"]:
        if row["slice"] == "kept" and row["metric"] in FACTS:
            original.setdefault(row["sae_id"].rpartition("-")[2], {})[row["metric"]] = row["value"]
    seen = records(saectl, back["run"])
    assert len(seen) == sum(WRITTEN.values())
    for metadata, metrics in seen:
        imported = metadata["saectl"]["imported"]
        was = original[imported["record"]["keys"]["train"]]
        assert was.keys() == set(FACTS)
        for metric, value in was.items():
            assert metrics[metric] == pytest.approx(value, rel=2e-5, abs=1e-6), (imported, metric)


def test_nothing_was_trained_and_no_activation_was_captured_for_it(
    here: tuple[Saectl, Path], back: Any
) -> None:
    saectl, _ = here
    for folder in Disk(saectl.store).stages("train"):
        if ".imported." in folder.name:
            assert not (folder / "metrics.jsonl").exists()
    assert all((c / "evicted.json").exists() for c in Disk(saectl.store).stages("cache"))


def test_what_is_not_known_of_its_training_is_unknown_everywhere(
    here: tuple[Saectl, Path], back: Any
) -> None:
    saectl, _ = here
    (sweep,) = saectl.json("results", back["file"], *SETS)["sweeps"]
    assert {(r["arch"], r["train_tokens"], r["seed"]) for r in sweep["rows"]} == {
        ("imported", None, None)
    }
    released = Path(back["run"]["release"])
    card = (released / "README.md").read_text()
    assert "16 sparse autoencoders, read from other projects' files and evaluated by" in card
    assert "| Training text | unknown |" in card and "num_tokens" not in card
    assert "of the test's own suite (sha256 " in card
    for cfg in released.glob("*/cfg.json"):
        text = cfg.read_text()
        record = json.loads(text)["metadata"]["saectl"]
        assert "train" not in record and len(record["imported"]["digest"]) == 64
        assert str(saectl.store.parent) not in text, "no path of this machine"
    Disk(saectl.store).verify("train", "eval", "release")
    assert Path(saectl.json("report", back["file"], *SETS)["sweeps"][0]["report"]).is_file()
    plan = saectl.sweep("plan", back["file"], *SETS)
    assert {s["action"] for s in plan["stages"]} == {"skip"}


def test_the_same_import_again_leaves_the_file_and_another_one_is_refused(
    here: tuple[Saectl, Path], back: Any
) -> None:
    saectl, release = here
    file, form = back["file"], ("--format", "sparsify")
    before = file.read_bytes()
    wanted = [word for name in FORMATS for word in ("--format", name)]
    told = ("--source", "the test's own suite", "--name", "back", "--out", file)
    again = saectl("import", release, *wanted, *told).stdout
    assert "(it was there already)" in again and f"next: saectl eval {file}" in again
    refused = saectl("import", release, *form, "--out", file, code=2)
    assert "is there already, and is another sweep" in refused.stderr
    assert file.read_bytes() == before


def test_files_that_change_after_they_were_found_are_refused_and_others_go_on(
    here: tuple[Saectl, Path], tmp_path: Path
) -> None:
    saectl, release = here
    shutil.copytree(release / "formats" / "dictionary_learning", tmp_path / "theirs")
    file = tmp_path / "changed.yaml"
    saectl("import", tmp_path / "theirs", "--out", file, "--source", "elsewhere")
    damaged = next(tmp_path.glob("theirs/*topk*/ae.pt"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    failed = saectl("train", file, *SETS, "--keep-going", code=1)
    assert "are not those that this sweep was pinned to" in failed.stderr
    assert failed.stderr.count(" failed: ") == 1
    assert "2 train" in failed.stdout


def test_what_a_cell_says_wrongly_of_its_files_ends_it(
    here: tuple[Saectl, Path], tmp_path: Path
) -> None:
    saectl, release = here
    theirs = release / "formats" / "qwen-scope"
    file = tmp_path / "wrong.yaml"
    saectl("import", theirs, "--out", file)
    text = file.read_text()
    for right, wrong, said in (
        ("k: 8", "k: 9", "holds an SAE of k 8, and the sweep says 9"),
        ("width: 64", "width: 128", "holds an SAE of width 64, and the sweep says 128"),
        ("width: 64", "width: 64\n      file_layer: 3", "it has no layer3.sae.pt"),
        ("site: resid_post", "site: mlp_out", "says that it is of layer 1, resid_post"),
    ):
        assert right in text
        file.write_text(text.replace(right, wrong))
        assert said in saectl("train", file, *SETS, code=1).stderr
