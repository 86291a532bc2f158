"""A random model as control, means over seeds, longer contexts and SAEBench's files, from a sweep
that is really run."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import jsonschema
import pytest
from realcommand import Disk

SPEC = Path(__file__).with_name("controls.yaml")
SCHEMA = Path(__file__).parents[1] / "report" / "saebench_core.schema.json"


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """The command in the workspace of the finished sweep, and what `results` said."""
    root = tmp_path_factory.mktemp("controls")
    saectl = command(root / "store")
    saectl("run", SPEC)
    return saectl, saectl.sweep("results", SPEC, "--saebench", root / "saebench")


def own(said):
    return [r for r in said["rows"] if r["run_id"] and r["slice"] == "kept"]


def test_both_models_read_the_same_blocks(run):
    assert len(Disk(run[0].store).stages("tokens")) == 1
    assert len(Disk(run[0].store).stages("cache")) == 2


def test_each_sae_of_the_random_model_is_a_control_of_its_like(run):
    fvu = [r for r in own(run[1]) if r["metric"] == "fvu.pooled_v1"]
    saes = {r["sae_id"]: r for r in fvu}
    assert len(fvu) == len(saes) == 6
    controls = [r for r in fvu if r["control_of"]]
    assert len(controls) == 3
    for control in controls:
        like = saes[control["control_of"]]
        assert like["control_of"] is None
        assert (control["arch"], like["arch"]) == ("random_model", "topk")
        assert (control["model_id"], like["model_id"]) == ("tiny-random0", "tiny")
        for same in ("seed", "d_sae", "layer", "site", "k_or_lambda", "dataset_sha256"):
            assert control[same] == like[same]
        assert control["value"] != like["value"]
    values = {r["model_id"]: r["value"] for r in own(run[1]) if r["metric"] == "ce.clean_v1"}
    assert values["tiny"] < values["tiny-random0"], "what was learned is gone"


def test_means_over_seeds_are_of_the_rows_above(run):
    means = [r for r in run[1]["rows"] if r["run_id"] is None]
    names = {r["sae_id"]: r["control_of"] for r in means}
    plain, control = sorted(names, key=lambda n: names[n] is not None)
    assert names == {plain: None, control: plain}
    for name, of in ((plain, None), (control, "random")):
        for metric in ("fvu.pooled_v1", "l0_v1", "kl.spliced_v1"):
            each = [
                r["value"]
                for r in own(run[1])
                if r["metric"] == metric and bool(r["control_of"]) == bool(of)
            ]
            (mean,) = [
                r
                for r in means
                if r["sae_id"] == name and r["metric"] == metric and r["slice"] == "kept"
            ]
            assert mean["value"] == pytest.approx(statistics.fmean(each), rel=1e-12)
            half = 4.302652729911275 * statistics.stdev(each) / 3**0.5
            assert mean["ci_high"] - mean["value"] == pytest.approx(half, rel=1e-9, abs=1e-12)
            assert mean["n_units"] == 3
    assert {"context=128:kept", "chat"} <= {r["slice"] for r in means}


def test_longer_contexts_and_chats_are_slices_in_the_table(run):
    slices = {r["slice"] for r in run[1]["rows"]}
    assert {"context=128:kept", "context=128:beyond", "chat", "plain", "chat:user"} <= slices
    counted = {
        r["slice"]: r["n_tokens"]
        for r in run[1]["rows"]
        if r["metric"] == "fvu.pooled_v1" and r["control_of"] is None and r["run_id"]
    }
    assert counted["chat"] + counted["plain"] == counted["kept"]
    assert 0 < counted["context=128:beyond"] < counted["context=128:kept"]


def test_saebenchs_files_hold_our_numbers_in_its_form(run):
    said = run[1]
    assert len(said["saebench"]) == 6
    check = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    rows = {(r["sae_id"], r["metric"]): r["value"] for r in own(said)}
    whole = 0
    for path in map(Path, said["saebench"]):
        record = json.loads(path.read_text("utf-8"))
        name = record["sae_lens_release_id"]
        assert path.name == f"{name}_custom_sae_eval_results.json"
        nulls = record["eval_result_unstructured"]["saectl"]["null"]
        assert bool(nulls) == bool(list(check.iter_errors(record)))
        whole += not nulls
        found = record["eval_result_metrics"]
        assert found["sparsity"]["l0"] == rows[name, "l0_v1"]
        assert found["reconstruction_quality"]["mse"] == rows[name, "mse_v1"]
        kl = found["model_behavior_preservation"]
        share = 1 - kl["kl_div_with_sae"] / kl["kl_div_with_ablation"]
        assert kl["kl_div_score"] == pytest.approx(share)
        assert 0 < found["misc_metrics"]["average_max_decoder_cosine_sim"] < 1
        assert found["misc_metrics"]["frac_alive"] == pytest.approx(
            1 - rows[name, "dead_fraction_v1"]
        )
    assert whole >= 3, "those of the trained model have every number"
