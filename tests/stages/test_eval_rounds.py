"""What a round of evaluations is said to need bounds what it takes."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from judging import Sweep
from torch.profiler import ProfilerActivity, profile

from sae_cli.plan.place import folder
from sae_cli.stages import eval as stage
from sae_cli.stages.eval_rounds import Seat, need
from sae_cli.store.weights import WEIGHTS

BOUND = 1.6
"""What is predicted is at least what is measured, and at most this many times it."""


@pytest.mark.parametrize(
    ("width", "batch", "count"),
    [(64, 512, 12), (8192, 512, 3), (32768, 64, 3)],
    ids=["logits weigh most", "latents weigh most", "weights weigh most"],
)
def test_a_round_takes_what_was_said(
    width: int, batch: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own allocations; the weights of SAEs lie in the bytes that were read."""
    here = Sweep(tmp_path, f"train.width={width}", f"eval.batch_tokens={batch}")
    here.train()
    seated: list[tuple[list[Seat], Any]] = []
    plain = stage._seats

    def told(tasks: Any, model: Any, *given: Any) -> list[Seat]:
        found = plain(tasks, model, *given)
        seated.append((found, model))
        return found

    monkeypatch.setattr(stage, "_seats", told)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        here.run(here.evals[:count])
    ((seats, model),) = seated
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    files = [folder(here.workspace, e.deps["train"]).path / WEIGHTS for e in here.evals[:count]]
    found = peak(profiler) - own + sum(file.stat().st_size for file in files)
    assert len(here.finished) == count
    assert found <= need(seats, model, batch) <= BOUND * found


def peak(profiler: profile) -> int:
    """Bytes of tensors that were alive at once, at most."""
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
