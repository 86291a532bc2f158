"""A calibration of round numbers, for tests of what is predicted from one."""

from __future__ import annotations

from typing import Any

from sae_cli.plan.calibration import (
    Calibration,
    EvalPoint,
    ForwardPoint,
    TrainPoint,
    WritePoint,
)


def trained(arch: str, flops: int, seconds: float) -> TrainPoint:
    return TrainPoint(
        arch=arch, d_in=64, d_out=64, width=512, batch_size=1000, flops_per_step=flops, steps=9,
        seconds_per_step=seconds, flops_per_second=flops / seconds,
    )  # fmt: skip


def forwarded(flops: int, seconds: float, **fields: Any) -> ForwardPoint:
    about: dict[str, Any] = {"model": "tiny", "dtype": "float32", "context": 128, **fields}
    return ForwardPoint(
        **about, flops_per_token=flops, seconds_per_token=seconds, flops_per_second=flops / seconds
    )


def calibrated(**fields: Any) -> Calibration:
    """A CPU on which nothing takes long to begin, with the fields that a test changes."""
    about: dict[str, Any] = {
        "device": "Test CPU, 2 threads",
        "type": "cpu",
        "threads": 2,
        "saectl": "0",
        "measured": "2026-01-02 03:04 UTC",
        "measured_at": 1.0,
        "start_seconds": {},
        "load_seconds": {},
        "tokens_per_second": 1000.0,
        "capture_seconds": 0.0,
        "train_seconds": 0.0,
        "forward": (forwarded(10**5, 1e-4),),
        "train": (trained("topk", 10**8, 0.1),),
        "write": (WritePoint(dtype="bfloat16", d_in=64, seconds_per_row=1e-5, mb_per_second=12.9),),
        "evaluation": (
            EvalPoint(
                model="tiny", flops_per_token=10**6, seconds_per_token=1e-3, flops_per_second=1e9
            ),
        ),
    }
    return Calibration(**{**about, **fields})
