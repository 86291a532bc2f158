"""What a plan's jobs take by a calibration of round numbers, and on a named device without one."""

from __future__ import annotations

import pytest
import torch
from calibrations import calibrated, trained

from sae_cli.lm.flops import peak_of
from sae_cli.plan.cost import cost
from sae_cli.plan.jobs import coalesce
from sae_cli.plan.predict import REFERENCE, predicted, totals

SWEEP = """\
name: small
model: tiny
data: {tokens: 1280, heldout_tokens: 256, context: 128}
train: {width: 512, num_tokens: 5000, batch_size: 1000}
matrix:
  layer: [0, 1]
  k: [4, 8]
"""


def by_kind(found):
    out = {}
    for job in found.jobs:
        out[job.kind] = out.get(job.kind, 0.0) + job.seconds
    return out


def test_times_of_jobs_by_hand(graph):
    made = graph(SWEEP)
    (capture,) = [cost(job) for job in coalesce(made.of("cache"))]
    first = cost(coalesce(made.of("eval"))[0])
    layers = capture.forward // capture.tokens
    found = by_kind(totals(coalesce(made.stages), calibrated()))
    assert found["tokens"] == pytest.approx((1280 + 256) / 1000)
    assert found["cache"] == pytest.approx(1280 * (1e-4 * layers / 10**5 + 2 * 1e-5))
    # four SAEs of five steps, each smaller than what was measured, so of the same fixed cost
    assert found["train"] == pytest.approx(4 * 5 * 0.1)
    assert found["eval"] == pytest.approx((first.forward + first.arithmetic) / 1e9, rel=1e-3)


def test_what_is_loaded_and_opened_counts_for_each_job_and_libraries_once_a_kind(graph):
    made = graph(SWEEP)
    plain = by_kind(totals(coalesce(made.stages), calibrated()))
    more = calibrated(
        load_seconds={"tiny": 10.0}, capture_seconds=5.0, train_seconds=2.0,
        start_seconds={"tokens": 100.0, "train": 200.0},
    )  # fmt: skip
    found = by_kind(totals(coalesce(made.stages), more))
    added = {kind: found[kind] - plain[kind] for kind in found}
    assert added == pytest.approx(
        {"tokens": 100.0, "cache": 15.0, "train": 200.0 + 4 * 2.0, "eval": 10.0, "release": 0.0}
    )


def test_on_a_gpu_writing_and_forwards_overlap(graph):
    made = graph(SWEEP)
    cpu = by_kind(totals(coalesce(made.stages), calibrated()))["cache"]
    gpu = by_kind(totals(coalesce(made.stages), calibrated(type="cuda")))["cache"]
    assert cpu - gpu == pytest.approx(1280 * 2 * 1e-5)


def test_a_stage_takes_what_its_job_does(graph):
    made = graph(SWEEP)
    times = predicted(made.stages, calibrated())
    assert set(times) == {stage.name for stage in made.stages}
    lines = totals(coalesce(made.stages), calibrated()).jobs
    for job, line in zip(coalesce(made.stages), lines, strict=True):
        assert {times[stage.name] for stage in job.stages} == {line.seconds}
    assert predicted(made.stages, None) == {}


def test_totals_are_the_sums_of_their_jobs(graph):
    found = totals(coalesce(graph(SWEEP).stages), calibrated())
    assert found.capture_tokens == 1280 and found.train_tokens == 4 * 5000
    assert found.bytes == sum(job.bytes for job in found.jobs)
    assert found.forward_flops == sum(job.forward_flops for job in found.jobs)
    assert found.train_flops == sum(job.train_flops for job in found.jobs if job.kind == "train")
    assert found.device_hours == pytest.approx(sum(job.seconds for job in found.jobs) / 3600)
    assert not found.assumed and found.device == "Test CPU, 2 threads"


def test_without_a_calibration_hours_are_those_of_assumed_shares_and_say_so(graph):
    found = totals(coalesce(graph(SWEEP, "cache.dtype=int8").stages), None)
    assert found.assumed and found.device == "H100" and "40%" in str(found.reference)
    assert all(job.seconds is None for job in found.jobs)
    evaluated = sum(job.train_flops for job in found.jobs if job.kind == "eval")
    # the embedded model computes in float32
    seconds = found.forward_flops / (0.4 * 67e12) + (found.train_flops + evaluated) / (0.5 * 67e12)
    assert found.device_hours == pytest.approx(seconds / 3600)


def test_the_named_device_is_that_of_its_data_sheet():
    name = "NVIDIA H100 80GB HBM3"
    assert REFERENCE.half == peak_of(name, torch.bfloat16)
    assert REFERENCE.single == peak_of(name, torch.float32)


def test_what_is_not_known_is_not_guessed_at(graph):
    text = SWEEP.replace("model: tiny", "model: org/name")
    for calibration in (None, calibrated()):
        found = totals(coalesce(graph(text).stages), calibration)
        assert found.device_hours is None and found.forward_flops is None
        unknown = [job for job in found.jobs if job.device_hours is None]
        assert {job.kind for job in unknown} == {"cache", "train", "eval"}
        assert all("not known here" in str(job.why) for job in unknown)


def test_an_architecture_of_which_nothing_was_measured_has_no_time(graph):
    made = graph(SWEEP.replace("k: [4, 8]", "arch: [relu_l1]"))
    found = totals(coalesce(made.stages), calibrated(train=(trained("topk", 10**8, 0.1),)))
    whys = {job.kind: job.why for job in found.jobs}
    assert found.device_hours is None and "nothing was measured" in str(whys["train"])
    assert whys["cache"] is None
