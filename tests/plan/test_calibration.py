"""What lies between measured sizes, and which calibration of a workspace is taken."""

from __future__ import annotations

import json

import pytest
from calibrations import calibrated, forwarded, trained

from sae_cli.plan.calibration import interpolated, newest


def test_a_measured_size_takes_what_was_measured():
    points = [(10.0, 1.0), (1000.0, 4.0), (100.0, 2.0)]
    for size, seconds in points:
        assert interpolated(points, size) == pytest.approx(seconds)


def test_between_two_sizes_lies_the_line_of_the_logarithms():
    assert interpolated([(10, 1.0), (1000, 4.0)], 100) == pytest.approx(2.0)


def test_above_the_largest_time_grows_as_work_does():
    assert interpolated([(10, 1.0), (100, 2.0)], 400) == pytest.approx(8.0)


def test_far_below_the_smallest_a_step_costs_what_the_smallest_does():
    assert interpolated([(100, 2.0)], 1) == pytest.approx(2.0)
    assert interpolated([(100, 2.0)], 90) == pytest.approx(1.8)


def test_twice_the_same_size_counts_as_its_mean():
    assert interpolated([(10, 1.0), (10, 3.0)], 10) == pytest.approx(2.0)


def test_of_nothing_nothing_is_predicted():
    assert interpolated([], 10) is None


def test_times_are_those_of_the_same_model_format_and_architecture_where_there_are_any():
    points = (
        forwarded(1000, 1.0),
        forwarded(1000, 2.0, dtype="bfloat16"),
        forwarded(1000, 4.0, model="other"),
    )
    found = calibrated(forward=points)
    assert found.forward_seconds("tiny", "float32", 1000) == pytest.approx(1.0)
    assert found.forward_seconds("tiny", "bfloat16", 1000) == pytest.approx(2.0)
    assert found.forward_seconds("unmeasured", "bfloat16", 1000) == pytest.approx(2.0)


def test_an_architecture_that_was_not_measured_takes_the_times_of_its_kin():
    found = calibrated(train=(trained("topk", 100, 1.0), trained("relu_l1", 100, 5.0)))
    assert found.step_seconds("topk", 100) == pytest.approx(1.0)
    assert found.step_seconds("batchtopk", 100) == pytest.approx(1.0)
    assert found.step_seconds("jumprelu", 100) == pytest.approx(5.0)
    assert calibrated(train=(trained("topk", 100, 1.0),)).step_seconds("gated", 100) is None


def test_of_two_batches_of_one_size_a_third_lies_on_their_line():
    """0.4 s for the weights and 1 ms a row: the weights cost the same for any batch."""
    points = tuple(
        trained("topk", 1000 * batch, 0.4 + 1e-3 * batch).model_copy(update={"batch_size": batch})
        for batch in (128, 256)
    )
    found, size = calibrated(train=points), (64, 64, 512)
    assert found.step_seconds("topk", 4_096_000, size, 4096) == pytest.approx(0.4 + 4.096)
    assert found.step_seconds("topk", 200_000, size, 200) == pytest.approx(0.6)
    assert found.step_seconds("topk", 16_000, size, 16) == pytest.approx(0.528)  # not below
    other = found.step_seconds("topk", 4_096_000, (64, 64, 1024), 4096)
    assert other == pytest.approx(16 * 0.656)


def test_the_latest_calibration_counts_and_others_files_are_passed_over(workspace):
    assert newest(workspace) is None
    older, later = calibrated(measured_at=5.0), calibrated(device="GPU", measured_at=9.0)
    path = later.save(workspace)
    assert path == workspace.root / "bench" / "gpu.json"
    assert older.save(workspace).name == "test-cpu-2-threads.json"
    (workspace.bench / "torn.json").write_text('{"version": 1')
    (workspace.bench / "tomorrow.json").write_text(json.dumps({"version": 2}))
    assert newest(workspace) == later
    assert list(workspace.stages()) == []  # no folder of a stage
