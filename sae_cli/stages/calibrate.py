"""What a device does in a second, by the parts that the stages are made of.

No stage: nothing is kept but numbers. Every measurement runs the real thing (`Capture`, `Trainer`,
`Recorder`) on made-up inputs of a real size, drops the first repetition, which warms up, and goes
on until its share of the time is spent. Lower quartiles are told: what else the machine does only
ever adds. It refuses to measure what would not fit, and says so.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from sae_cli.lm.capture import Capture
from sae_cli.lm.device import pick_device
from sae_cli.lm.load import load_model
from sae_cli.lm.sites import find_tap
from sae_cli.sae.fold import scaling
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.stages import CacheSpec, ModelSpec, Site
from sae_cli.spec.train import Train
from sae_cli.stages.grid_memory import free_memory
from sae_cli.store.acts import encodings
from sae_cli.store.acts.array import ArrayPlan
from sae_cli.store.acts.recorder import Recorder

RANDOM = Qwen3Config(
    vocab_size=1024,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    tie_word_embeddings=True,
)
"""A model that stands in where none is at hand: larger than the embedded one, quick to make."""
FEWEST, MOST = 3, 400
"""Repetitions that are timed."""
DRAWN_ROWS = 8192
"""Rows of made-up activations that batches are taken from in turns."""
QUARTERS = 4
SHARD_CHUNKS = 4
"""Chunks of the shard that is written."""
ACTIVE = 8
"""Directions that each made-up row is a sum of."""


class Device(NamedTuple):
    """Where measurements are made."""

    device: torch.device
    name: str
    threads: int


def device_of(name: str) -> Device:
    """The device that `name` means, by the name that people know it by. Raises ModelError."""
    device = pick_device(name)
    if device.type == "cuda":
        return Device(device, torch.cuda.get_device_name(device), torch.get_num_threads())
    return Device(device, f"{_cpu()}, {torch.get_num_threads()} threads", torch.get_num_threads())


def loaded(
    spec: ModelSpec | None, dtype: str, device: torch.device
) -> tuple[PreTrainedModel, float]:
    """A model (None: a random one of `RANDOM`'s sizes) and the seconds that loading it took."""
    begun = time.perf_counter()
    if spec is not None:
        return load_model(spec, device), time.perf_counter() - begun
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(RANDOM, dtype=getattr(torch, dtype))
    model.requires_grad_(False).eval()
    return model.to(device), time.perf_counter() - begun


def forward(
    model: PreTrainedModel,
    places: Sequence[tuple[int, Site]],
    context: int,
    batch_tokens: int,
    seconds: float,
) -> tuple[float, list[Tensor]]:
    """Seconds per token of forwards that tap these (layer, site)s, and what the last one saw: for
    each a float tensor [tokens, d], on the CPU."""
    blocks = max(1, batch_tokens // context)
    vocab = int(model.config.get_text_config().vocab_size)
    tokens = torch.randint(vocab, (blocks, context), generator=torch.Generator().manual_seed(1))
    reader = Capture(model, [find_tap(model, layer, site) for layer, site in places])
    seen: list[Tensor] = []

    def once() -> None:
        seen[:] = reader(tokens)

    taken = _times(once, seconds, next(model.parameters()).device)
    acts = [x.flatten(0, 1).float().cpu() for x in seen]
    return _typical(taken) / tokens.numel(), acts


def training(
    spec: Train,
    sides: tuple[int, int],
    rows: Tensor | None,
    device: torch.device,
    seconds: float,
) -> tuple[int, float] | str:
    """How many steps were timed, and the seconds of one: the mean of four typical ones, one of
    each quarter of the steps. Or why none was timed.

    The schedule of `spec` is run whole, over as many steps as there is time for, so that penalties
    rise and activations thin out as in a long training. `rows [n, d_in]` are activations of the
    site; without them some are made up.
    """
    d_in, d_out = sides
    x = made_up(d_in) if rows is None or len(rows) < 2 else rows
    y = None if d_in == d_out and getattr(spec, "out_site", None) is None else made_up(d_out)
    x, y = x.to(device), None if y is None else y.to(device)  # the stage's reader brings them there

    def trainer(total: int) -> Trainer:
        short = spec.model_copy(update={"num_tokens": total * spec.batch_size})
        return Trainer(
            short, d_in, *_scaling(x), device, total, target=None if y is None else _scaling(y)
        )

    try:
        few = _steps(trainer(FEWEST + 1), x, y, FEWEST, seconds)
        total = max(FEWEST, min(MOST, int(seconds / _typical(few))))
        found = few if total == FEWEST else _steps(trainer(total + 1), x, y, total, seconds)
    except (torch.OutOfMemoryError, MemoryError):
        return "there is not enough memory"
    size = -(-len(found) // QUARTERS)
    parts = [_typical(found[at : at + size]) for at in range(0, len(found), size)]
    return len(found), statistics.mean(parts)


def writing(folder: Path, d: int, context: int, spec: CacheSpec, acts: Tensor | None) -> float:
    """Seconds per row of putting one chunk after another on the disk of `folder`."""
    chunk = spec.chunk_rows(d, context, 2**30)
    rows = SHARD_CHUNKS * chunk
    plan = ArrayPlan(rows, d, chunk, rows, encodings.named(spec.dtype))
    source = made_up(d) if acts is None else acts
    source = source[torch.arange(chunk) % len(source)]
    reasons = np.zeros(len(source), np.uint8)
    taken = []
    for number in range(FEWEST):
        begun = time.perf_counter()
        with Recorder(folder / str(number), plan) as recorder:
            for first in range(0, rows, len(source)):
                recorder.put(first, source, reasons)
            recorder.drain()
        taken.append(time.perf_counter() - begun)
    return _typical(taken) / rows


def made_up(d: int) -> Tensor:
    """Activations float32 [DRAWN_ROWS, d] of sparse structure: sums of few of 2 d directions."""
    draw = torch.Generator().manual_seed(7)
    directions = torch.nn.functional.normalize(torch.randn(2 * d, d, generator=draw), dim=1)
    rows = 0.02 * torch.randn(DRAWN_ROWS, d, generator=draw)
    for _ in range(ACTIVE):
        which = torch.randint(2 * d, (DRAWN_ROWS,), generator=draw)
        rows += directions[which] * torch.rand(DRAWN_ROWS, 1, generator=draw)
    return rows


def fits(bytes: int, device: str) -> bool:
    """Whether a training that takes so much has room."""
    on_device, on_host = free_memory(device)
    free = on_host if on_device is None else on_device
    return free is None or bytes <= free


def _steps(
    trainer: Trainer, x: Tensor, y: Tensor | None, count: int, seconds: float
) -> list[float]:
    """Seconds of each of `count` steps behind the first, which sets thresholds; of fewer, should
    they take twice as long as they may."""
    _step(trainer, x, y)
    found: list[float] = []
    while len(found) < count and (len(found) < FEWEST or sum(found) < 2 * seconds):
        found.append(_timed(lambda: _step(trainer, x, y), trainer.device))
    return found


def _step(trainer: Trainer, x: Tensor, y: Tensor | None) -> None:
    size = trainer.spec.batch_size
    at = (torch.arange(size, device=x.device) + trainer.steps * size) % len(x)
    trainer.step(x[at], None if y is None else y[at % len(y)])


def _scaling(x: Tensor) -> tuple[Tensor, float]:
    x = x.double()
    return scaling(x.mean(0), float(x.square().sum(1).mean()))


def _times(call: Callable[[], object], seconds: float, device: torch.device) -> list[float]:
    """Seconds of each repetition, the first apart."""
    call()
    found: list[float] = []
    while len(found) < FEWEST or (sum(found) < seconds and len(found) < MOST):
        found.append(_timed(call, device))
    return found


def _typical(seconds: Sequence[float]) -> float:
    """The lower quartile."""
    return sorted(seconds)[len(seconds) // 4]


def _timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, to the end of what it started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _cpu() -> str:
    """The CPU's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "CPU"
