"""A finished array, and tasks that train on it, for tests of the train stage without a runner."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_cli.spec.stages import CacheSpec, DataSpec, MaskSpec, ModelSpec
from sae_cli.spec.train import ARCHITECTURES
from sae_cli.spec.work import CacheWork, TokensWork, TrainWork
from sae_cli.stages.task import Dep, Task
from sae_cli.store.acts.array import ArrayPlan, finish
from sae_cli.store.acts.recorder import Recorder

D, CHUNK = 16, 128
ROWS = 16 * CHUNK
ABOUT = {"context": 32, "module": "model.layers.1"}


class Silent:
    """A report that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.at_: list[int] = []
        self.all_begun: list[tuple[str, int, int, str]] = []

    def begin(self, label: str, total: int, done: int, unit: str) -> None:
        self.begun = label, total, done, unit
        self.all_begun.append(self.begun)

    def at(self, done: int, numbers: Mapping[str, float] | None = None) -> None:
        self.at_.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Bench:
    """An array, a folder for SAEs, and what became of them."""

    root: Path
    finished: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    report: Silent = field(default_factory=Silent)

    @property
    def array(self) -> Path:
        return self.root / "cache" / "tiny.L1.mlp_out-0a0b0c0d"

    def task(self, name: str, *, stop: Callable[[], bool] = lambda: False, **spec: Any) -> Task:
        """A task that trains `spec` in the folder `name`."""
        model, mask = ModelSpec(builtin="tiny"), MaskSpec()
        out = self.root / "train" / name
        out.mkdir(parents=True, exist_ok=True)

        def finish(files: Sequence[str], summary: Mapping[str, Any]) -> None:
            assert all((out / file).is_file() for file in files)
            self.finished[name] = dict(summary)

        return Task(
            name=f"train/{name}",
            key="01020304",
            slug=name,
            work=TrainWork(train=train_spec(**spec)),
            out=out,
            deps={
                "cache": Dep(
                    CacheWork(
                        model=model, layer=1, site="mlp_out", cache=CacheSpec(), mask=mask
                    ),
                    self.array, "0a0b0c0d", "tiny.L1.mlp_out",
                ),
                "tokens": Dep(
                    TokensWork(model=model, data=DataSpec()), self.root, "0e0e0e0e", "tiny"
                ),
            },
            report=self.report,
            device="cpu",
            stop=stop,
            finish=finish,
            part=lambda _: nullcontext(),
            whole=nullcontext,
            wait=lambda _: None,
            fail=lambda error: self.failed.update({name: str(error)}),
        )  # fmt: skip

    def sha(self, name: str) -> dict[str, str]:
        """sha256 of the files of a finished SAE."""
        assert name in self.finished, f"{name} is not finished"
        files = sorted((self.root / "train" / name).glob("*.*"))
        return {
            f.name: hashlib.sha256(f.read_bytes()).hexdigest()
            for f in files
            if f.suffix in (".json", ".safetensors")
        }


def train_spec(**spec: Any) -> Any:
    """A spec of 20 steps on about one epoch of the array, in pools of a fifth of it."""
    plain = {
        "arch": "topk", "width": 32, "num_tokens": 2400, "batch_size": 120, "shuffle_tokens": 400,
        "log_every": 5, "checkpoint_every": 4, "lr_warmup": 0.1,
    }  # fmt: skip
    return ARCHITECTURES[spec.get("arch", "topk")](**{**plain, **spec})


def bench(root: Path, acts: torch.Tensor | None = None) -> Bench:
    """An array of ROWS rows, every ninth of which does not count, that one can train on."""
    made = Bench(root)
    made.array.mkdir(parents=True)
    if acts is None:
        acts = mixture()
    reasons = (np.arange(len(acts)) % 9 == 0).astype(np.uint8)
    plan = ArrayPlan(len(acts), acts.shape[1], CHUNK, 4 * CHUNK, "float32")
    with Recorder(made.array, plan, ABOUT) as recorder:
        recorder.put(0, acts, reasons)
        recorder.drain()
    finish(made.array)
    return made


def mixture(rows: int = ROWS, d: int = D, seed: int = 5) -> torch.Tensor:
    """Sums of a few of 2 d directions, off centre: something that an SAE can learn."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2 * d, d, generator=generator)
    active = (torch.rand(rows, 2 * d, generator=generator) < 0.1).float()
    return (active * torch.rand(rows, 2 * d, generator=generator)) @ directions + 0.5
