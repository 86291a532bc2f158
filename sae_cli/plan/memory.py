"""How much memory a training takes, before it is begun: what a grid is cut by, if it must be.

SAEs that train in one pass each keep their weights and moments, and share the rest: their steps
come one after another, so the largest step counts once, and so do the pools of rows. Where several
processes train together, each has its shard of the latents, its part of a batch and pools of its
own, and the one that leads has, at the end, the whole SAE. Numbers are those of tensors that are
alive at once, an upper bound: between 1 and 1.5 times what is measured
(`tests/plan/test_memory.py`, on grids in which SAEs outweigh what is fixed). Libraries and the
allocator's rest come on top; whoever compares with a machine leaves room for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.plan.graph import Stage
from sae_cli.plan.sizes import sides
from sae_cli.spec.train import Train
from sae_cli.spec.work import CacheWork, ImportWork, TokensWork, TrainWork

DENSE: dict[str, float] = {
    "topk": 4.5,
    "batchtopk": 4.5,
    "matryoshka": 4.5,
    "jumprelu": 6.0,
    "jumprelu_tanh": 11.0,
    "relu_l1": 5.0,
    "p_anneal": 5.0,
    "gated": 8.0,
    "tied": 5.0,
}
"""float32 tensors [batch_size, width] that a step of an architecture has alive at once, at most:
with AuxK where every latent is dead, elsewhere where every latent is active."""
ENTRY = 20
"""Numbers that each active latent of a batch takes where there are k of them: indices are int64."""
REVIVED = 5
"""Tensors as large as the encoder, in float32, that AuxK has alive when every latent is dead."""
THIN = 8
"""float32 tensors [batch_size, d_in] beside them."""
FIXED = 8 * 2**20
"""Bytes of pieces that are worked on at a time, whatever the sizes."""
FOLDED = 11
"""Tensors as large as the encoder, in float32, that the end of a training has alive: the folding
is in float64."""
CALIBRATED = 5
"""float32 tensors [CALIBRATION_ROWS, width] that calibration has alive."""
CALIBRATION_ROWS = 1024
MOMENT_BLOCK = 256
"""Numbers of a row whose 8-bit moments share a scale."""


@dataclass(frozen=True)
class Need:
    """Bytes that trainings in one pass take."""

    kept: int
    """Weights, moments, counters: of all SAEs, from the beginning to the end."""
    step: int
    """What the largest step makes and drops: gradients, activations."""
    rows: int
    """The batches that are on the device at a time."""
    end: int
    """What the end of the largest training makes and drops, on the CPU."""
    pools: int
    """Rows that were read and wait for their turn, on the CPU: those of all processes."""
    processes: int = 1
    """How many train together, on one machine; what is kept, a step and its rows are each one's."""

    @property
    def device(self) -> int:
        """Bytes on a GPU, which is one process's."""
        return self.kept + self.step + self.rows

    @property
    def host(self) -> int:
        """Bytes on the CPU beside a GPU."""
        return self.end + self.pools

    @property
    def together(self) -> int:
        """Bytes where the CPU is the device, of all processes."""
        each = self.kept + self.rows
        return self.processes * each + max(self.processes * self.step, self.end) + self.pools


@dataclass(frozen=True)
class Limits:
    """Bytes that there are: on a GPU, if there is one, and on the CPU. None: not known."""

    device: int | None
    host: int | None

    def admit(self, need: Need) -> bool:
        """Whether there is room."""
        if self.device is None:
            return self.host is None or need.together <= self.host
        return need.device <= self.device and (self.host is None or need.host <= self.host)


def need(stages: Sequence[Stage]) -> Need | None:
    """What trainings of one array and order take in one pass, or an import, which has only an end;
    None where sizes are not known."""
    facts = stages[0].facts
    if facts is None:
        return None
    if isinstance(stages[0].work, ImportWork):
        return _importing(stages[0])
    capture = stages[0].deps["cache"]
    source, work = capture.deps["tokens"].work, capture.work
    assert isinstance(work, CacheWork) and isinstance(source, TokensWork)
    specs = [s.work.train for s in stages if isinstance(s.work, TrainWork)]
    d, target = facts.d_in(work.site), stages[0].deps.get("target")
    sides = [d]
    if target is not None:  # of transcoders, which share what they predict too
        assert isinstance(target.work, CacheWork)
        sides.append(facts.d_in(target.work.site))
    total = -(-source.data.tokens // source.data.context) * source.data.context
    chunk = work.cache.chunk_rows(d, source.data.context, total)
    pool = _pool_rows(total, specs[0].shuffle_tokens, chunk)
    size, count = max(spec.batch_size for spec in specs), specs[0].parallel.processes
    views = len({(spec.center, spec.normalize) for spec in specs})
    sizes = len({spec.batch_size for spec in specs})
    return Need(
        kept=sum(_kept(spec, d, sides[-1]) for spec in specs),
        step=max(_step(spec, d, sides[-1]) for spec in specs),
        rows=4 * size * sum(sides) * (1 + views) * (1 if sizes == 1 else 2),
        end=max(_end(spec, d, sides[-1]) for spec in specs),
        pools=count * 2 * (pool + 1) * sum(work.cache.row_bytes(side) for side in sides),
        processes=count,
    )


def _importing(stage: Stage) -> Need | None:
    """What reading another project's SAE takes: it is folded as a training's is."""
    found = sides(stage)
    assert isinstance(stage.work, ImportWork)
    if found is None:
        return None
    end = 4 * FOLDED * (max(found) * stage.work.sae.width + found[0] * found[1])
    return Need(kept=0, step=0, rows=0, end=end, pools=0)


def fitted(stages: Sequence[Stage], limits: Limits) -> list[tuple[Stage, ...]]:
    """Trainings of one array and order, cut into passes that fit, in their order.

    One that does not fit alone is a pass of its own: the machine may know better.
    """
    passes: list[list[Stage]] = []
    for stage in stages:
        wanted = need([*passes[-1], stage]) if passes else None
        if passes and (wanted is None or limits.admit(wanted)):
            passes[-1].append(stage)
        else:
            passes.append([stage])
    return [tuple(one) for one in passes]


def _own(spec: Train) -> tuple[int, int]:
    """Rows of a batch and latents that one process works on."""
    assert spec.width is not None
    return spec.batch_size // spec.parallel.data, spec.width // spec.parallel.latent


def _parameters(spec: Train, d: int, d_out: int) -> int:
    """Numbers that are trained, at most: two vectors of `width` more than weights and biases."""
    _, width = _own(spec)
    return sum(rows * n for rows, n in _matrices(spec, d, d_out)) + 3 * width + d_out


def _matrices(spec: Train, d: int, d_out: int) -> list[tuple[int, int]]:
    """Rows and columns of the encoder, the decoder, and a transcoder's skip."""
    _, width = _own(spec)
    found = [(width, d)] if spec.arch == "tied" else [(width, d), (width, d_out)]
    return found + ([(d_out, d)] if getattr(spec, "skip", False) else [])


def _kept(spec: Train, d: int, d_out: int) -> int:
    _, width = _own(spec)
    average = 0 if spec.ema_decay is None else 4
    weights = _parameters(spec, d, d_out) * (4 + average)
    return weights + _moments(spec, d, d_out) + 16 * width


def _moments(spec: Train, d: int, d_out: int) -> int:
    """Both of Adam's. Vectors have no 8-bit ones, and a row of a matrix has scales beside them."""
    numbers = _parameters(spec, d, d_out)
    if spec.moments_dtype != "int8":
        return 2 * numbers * (4 if spec.moments_dtype == "float32" else 2)
    matrices = _matrices(spec, d, d_out)
    small = sum(rows * (n + 4 * -(-n // MOMENT_BLOCK)) for rows, n in matrices)
    return 2 * (small + 4 * (numbers - sum(rows * n for rows, n in matrices)))


def _step(spec: Train, d: int, d_out: int) -> int:
    rows, width = _own(spec)
    dense = DENSE.get(spec.arch, max(DENSE.values()))
    numbers = _parameters(spec, d, d_out)  # gradients
    numbers += int(rows * (dense * width + THIN * max(d, d_out)))
    active = getattr(spec, "k", 0)
    numbers += ENTRY * rows * active
    if spec.parallel.latent > 1:  # what every shard names for the cut of a row or a batch
        numbers += 4 * rows * active * spec.parallel.latent
    if "auxk_alpha" in type(spec).model_fields:
        numbers += REVIVED * max(d, d_out) * width
    return 4 * numbers + FIXED


def _end(spec: Train, d: int, d_out: int) -> int:
    assert spec.width is not None
    calibration = CALIBRATED * min(CALIBRATION_ROWS, spec.batch_size) * spec.width
    encoder = max(d, d_out) * spec.width
    if getattr(spec, "skip", False):
        encoder += d * d_out
    return 4 * max(FOLDED * encoder, calibration + encoder)


def _pool_rows(total: int, shuffle_tokens: int, chunk: int) -> int:
    """Rows of a pool at most (`store.order`): an even share of the array, and a chunk."""
    pools = max(1, round(total / shuffle_tokens))
    return min(total, -(-total // pools) + chunk)
