"""`saectl bench` measures through the real parts, and `plan` and `status` predict from its file.

How long anything takes is nothing that a test could know: that there are numbers, of the sizes that
were asked for, and that what is told is computed from them, it can.
"""

from __future__ import annotations

import json

import pytest
from calibrations import calibrated

from sae_cli.cli.asked import default_sizes, sizes_of
from sae_cli.cli.output import PlanOutput
from sae_cli.cli.progress import clock
from sae_cli.errors import OK, USAGE
from sae_cli.plan.calibration import Calibration, newest
from sae_cli.plan.cost import forward_flops, step_flops
from sae_cli.plan.place import folder, record_of
from sae_cli.plan.predict import predicted
from sae_cli.spec.presets import PRESETS
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import open_stage

QUICK = ("--seconds", "1")


def test_a_sweeps_own_model_and_sizes_are_measured(saectl, small):
    told = saectl("bench", "small.yaml", *QUICK, "--json", "--set", "device=cpu")
    assert told.code == OK
    found = Calibration.model_validate_json(told.out)
    assert found == newest(small.workspace) and found.sweep == "small" and found.type == "cpu"
    (forward,) = found.forward
    tiny = PRESETS["tiny"].facts
    assert (forward.model, forward.dtype) == ("tiny", "float32")
    assert forward.flops_per_token == forward_flops(tiny, 2, 128)  # layers 0 and 1
    sizes = {(p.arch, p.d_in, p.width) for p in found.train}
    assert sizes == {("topk", 64, 64)}
    for point in found.train:
        assert point.flops_per_second == pytest.approx(
            point.flops_per_step / point.seconds_per_step
        )
    (written,) = found.write
    assert (written.dtype, written.d_in) == ("bfloat16", 64)
    assert written.mb_per_second == pytest.approx(129 / written.seconds_per_row / 1e6)
    assert [p.model for p in found.evaluation] == ["tiny"] and set(found.load_seconds) == {"tiny"}
    assert not list(small.workspace.stages())  # its small run is gone


def test_sizes_and_architectures_come_from_options_and_no_model_is_made_up_as_well(saectl, small):
    told = saectl(
        "bench", *QUICK, "--size", "16x64x256", "--size", "24x64x256", "--arch", "gated",
        "--set", "device=cpu",
    )  # fmt: skip
    assert told.code == OK and "gated 16x64, batch 256" in told.out
    found = newest(small.workspace)
    assert found is not None and found.sweep is None
    points = {(p.arch, p.d_in, p.width, p.batch_size) for p in found.train}
    assert points == {("gated", 16, 64, 256), ("gated", 24, 64, 256)}
    spec = default_sizes(["gated"], [])[0].train
    assert len(found.forward) == 2  # the embedded model, and one that is made up
    assert step_flops(spec, 64, 64) == 7 * 2 * 64 * 512


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--size", "16x64"), "write D_INxWIDTHxBATCH"),
        (("--size", "0x64x8"), "write D_INxWIDTHxBATCH"),
        (("--size", "16x64x8", "--arch", "topkk"), "there are topk, batchtopk"),
        (("small.yaml", "--arch", "topk"), "--arch goes with --size"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(saectl, small, arguments, said):
    told = saectl("bench", *arguments)
    assert told.code == USAGE and said in told.err
    assert newest(small.workspace) is None


def test_of_many_sizes_the_smallest_and_the_largest_of_each_architecture_are_measured(small):
    (asked,) = sizes_of(small.graph)[:1]
    assert asked.stage is not None and (asked.d_in, asked.d_out) == (64, 64)
    assert asked.flops == 2048 * step_flops(asked.train, 64, 64)
    assert [a.train.k for a in sizes_of(small.graph)] == [4, 8]


def test_a_plan_predicts_from_the_calibration_and_says_whose(saectl, small):
    before = saectl("plan", "small.yaml").out.splitlines()
    assert before[-2].startswith("total: ") and "assumed to reach" in before[-1]
    calibrated().save(small.workspace)
    after = saectl("plan", "small.yaml").out.splitlines()
    assert after[:-1] == before[:-1]
    assert "on Test CPU, 2 threads as measured 2026-01-02 03:04 UTC" in after[-1]
    times = predicted(small.graph.stages, calibrated())
    assert f"tokens {clock(times[small.graph.of('tokens')[0].name])}" in after[-1]
    (plan,) = PlanOutput.model_validate_json(saectl("plan", "small.yaml", "--json").out).sweeps
    assert plan.totals is not None and not plan.totals.assumed
    told = {line.key: line.predicted_seconds for line in plan.stages}
    assert told == {s.key: pytest.approx(times[s.name], abs=1e-3) for s in small.graph.stages}


def test_nothing_to_run_has_no_totals(saectl, small):
    small.finish("tokens", "cache", "train", "eval", "release")
    assert "total: " not in saectl("plan", "small.yaml").out


def test_status_tells_what_was_predicted_of_what_is_done(saectl, small):
    small.finish("tokens", "cache")
    assert "took 2s, bfloat16" in saectl("status", "small.yaml").out
    calibrated().save(small.workspace)
    (capture,) = small.graph.of("cache")
    wanted = predicted(small.graph.stages, calibrated())[capture.name]
    told = saectl("status", "small.yaml").out
    assert f"took 2s (predicted {clock(wanted)}), bfloat16" in told


def test_status_tells_the_time_left_of_what_runs(saectl, small):
    (stage,) = [s for s in small.graph.of("train") if s.work.train.k == 4]
    place = folder(small.workspace, stage)
    with claim(place, heartbeat=20.0) as held:
        open_stage(place, record_of(stage))
        held.progress(100, 1000)
        held.progress(200, 1000)
        held._touch()
        progress = json.loads(place.progress.read_text())
        progress["since"] = progress["at"] - 3600.0
        place.progress.write_text(json.dumps(progress))
        told = saectl("status", "small.yaml").out
        (plan,) = PlanOutput.model_validate_json(
            saectl("status", "small.yaml", "--json").out
        ).sweeps
    assert "200/1,000  7h59m left  on " in told or "200/1,000  8h00m left  on " in told
    left = {line.key: line.seconds_left for line in plan.stages}[stage.key]
    assert left is not None and 7.5 * 3600 < left <= 8 * 3600
