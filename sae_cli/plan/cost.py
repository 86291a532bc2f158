"""How much arithmetic the jobs of a plan are, before anything exists: no torch, no network.

Counted are matrix products, two FLOPs for each multiplication with its addition. A job's forwards
count once, however many stages share them, so costs are per job. Per token:

    one layer        2 (weights of its matrices) + 2 (n_heads head_dim) (context + 1)
    logits           2 d_model vocab
    capture          layers 0 to the deepest that is tapped: nothing behind it runs
    study            not counted: what it needs depends on what it finds
    evaluation       a clean forward and logits; for each judged site two ablated ones, for each SAE
                     one that is spliced, and one for each control of it (at most: which ones share
                     theirs is measured): these begin at the layer that is edited; encoder and
                     decoder of each SAE, dense, on what counts and again within its splice; with
                     controls a clean forward more, and their products; the same again at each
                     longer context
    training         2 d_in width (encoder); where only k latents are touched, 2 k (d_in + 3 d_out)
                     (decoder, gradient of the values, of the decoder, of the encoder); where all
                     are, 2 d width for each dense product of `DENSE`

The layer is that of `lm.flops.forward_flops`; a test holds both together. Norms, activation
functions, selections, Adam and AuxK (dead latents can't be foreseen) are left out. relu_l1 and
jumprelu count dense, as on a GPU; on a CPU, once few latents fire, they compute less.
What is not known (a mixture of experts, a model whose config is not here) is None, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.plan.graph import Stage
from sae_cli.plan.jobs import Job
from sae_cli.plan.sizes import disk_bytes, sides
from sae_cli.spec.presets import ModelFacts
from sae_cli.spec.stages import EvalSpec
from sae_cli.spec.train import Train
from sae_cli.spec.work import (
    CacheWork,
    EvalWork,
    ImportWork,
    Kind,
    StudyWork,
    TokensWork,
    TrainWork,
    sae_of,
)

DENSE: dict[str, tuple[int, int]] = {
    "jumprelu": (2, 3),
    "jumprelu_tanh": (2, 3),
    "relu_l1": (2, 3),
    "p_anneal": (2, 3),
    "tied": (2, 3),
    "gated": (2, 5),
}
"""Products of a step that touch every latent: with the input's dimension (the encoder and its
gradient), and with the output's. An architecture that is not here touches k of them."""


@dataclass(frozen=True)
class Cost:
    """What a job does. None: not known."""

    kind: Kind
    stages: tuple[Stage, ...]
    tokens: int
    """Text that is packed, forwards' tokens, or steps' tokens, of all SAEs together."""
    forward: int | None
    """FLOPs of forwards through the model."""
    arithmetic: int | None
    """FLOPs of SAEs: of training steps, or of encoding and decoding in an evaluation."""
    bytes: int | None
    """What it leaves on disk, records apart."""


def cost(job: Job) -> Cost:
    """What a job of stages of one kind does."""
    first = job.stages[0]
    sizes = [disk_bytes(stage) for stage in job.stages]
    written = None if None in sizes else sum(size for size in sizes if size is not None)
    found: tuple[int, int | None, int | None] = (0, 0, 0)
    if isinstance(first.work, TokensWork):
        data = first.work.data
        found = ((data.train_blocks + data.heldout_blocks) * data.context, 0, 0)
    elif isinstance(first.work, CacheWork):
        found = _capture(job.stages)
    elif first.kind == "train":
        found = _training(job.stages)
    elif isinstance(first.work, EvalWork):
        found = _evaluation(job.stages, first.work.eval)
    elif isinstance(first.work, StudyWork):
        found = (0, None, None)
    return Cost(first.kind, job.stages, *found, written)


def layer_flops(facts: ModelFacts, context: int) -> int | None:
    """FLOPs per token of one layer on blocks of `context` tokens; None if not known."""
    if facts.intermediate is None or facts.n_kv_heads is None or facts.gated is None:
        return None
    d, attention = facts.d_model, facts.n_heads * facts.head_dim
    weights = 2 * d * attention + 2 * d * facts.n_kv_heads * facts.head_dim
    weights += (3 if facts.gated else 2) * d * facts.intermediate
    return 2 * weights + 2 * attention * (context + 1)


def forward_flops(facts: ModelFacts, layers: int, context: int) -> int | None:
    """FLOPs per token of a forward through the first `layers` layers, without logits."""
    one = layer_flops(facts, context)
    return None if one is None else layers * one


def logits_flops(facts: ModelFacts) -> int | None:
    """FLOPs per token of the unembedding."""
    return None if facts.vocab is None else 2 * facts.d_model * facts.vocab


def step_flops(train: Train, d_in: int, d_out: int) -> int:
    """FLOPs per token of a training step."""
    assert train.width is not None
    skip = 4 * d_in * d_out if getattr(train, "skip", False) else 0
    dense = DENSE.get(train.arch)
    if dense is not None:
        return 2 * (dense[0] * d_in + dense[1] * d_out) * train.width + skip
    k = min(getattr(train, "k", 0), train.width)
    return 2 * d_in * train.width + 2 * k * (d_in + 3 * d_out) + skip


def steps(train: Train) -> int:
    """Steps of a training."""
    return math.ceil(train.num_tokens / train.batch_size)


def eval_tokens(stage: Stage, spec: EvalSpec) -> int:
    """Held-out tokens that an evaluation reads, in whole blocks."""
    source = stage.deps["tokens"].work
    assert isinstance(source, TokensWork)
    data, blocks = source.data, source.data.heldout_blocks
    if spec.tokens is not None:
        blocks = min(blocks, -(-spec.tokens // data.context))
    return blocks * data.context


def _context(stage: Stage) -> int:
    source = stage.deps["tokens"].work
    assert isinstance(source, TokensWork)
    return source.data.context


def _capture(stages: Sequence[Stage]) -> tuple[int, int | None, int]:
    first, context = stages[0], _context(stages[0])
    source = first.deps["tokens"].work
    assert isinstance(source, TokensWork)
    tokens = source.data.train_blocks * context
    deepest = max(s.work.layer for s in stages if isinstance(s.work, CacheWork))
    one = None if first.facts is None else forward_flops(first.facts, deepest + 1, context)
    return tokens, None if one is None else tokens * one, 0


def _training(stages: Sequence[Stage]) -> tuple[int, int, int | None]:
    tokens, total = 0, 0
    known = True
    for stage in stages:
        if isinstance(stage.work, ImportWork):
            continue
        assert isinstance(stage.work, TrainWork)
        spec, dims = stage.work.train, sides(stage)
        own = steps(spec) * spec.batch_size
        tokens += own
        known = known and dims is not None
        total += 0 if dims is None else own * step_flops(spec, *dims)
    return tokens, 0, total if known else None


def _judged(stage: Stage) -> Stage:
    """The array of the site at which an SAE is judged: a transcoder's is the one it predicts."""
    return stage.deps.get("target", stage.deps["cache"])


def _before(place: Stage) -> int:
    """Layers that an edit leaves as they are."""
    assert isinstance(place.work, CacheWork)
    return place.work.layer + (place.work.site == "resid_post")


def _evaluation(stages: Sequence[Stage], spec: EvalSpec) -> tuple[int, int | None, int | None]:
    first, context = stages[0], _context(stages[0])
    packed = eval_tokens(first, spec)
    texts = [(context, packed), *((c, packed // c * c) for c in spec.contexts)]
    tokens = sum(n for _, n in texts)
    plain = [stage for stage in stages if "target" not in stage.deps]  # transcoders have none
    shown = len(plain) * len(spec.controls)
    forward = None
    if first.facts is not None:
        logits = logits_flops(first.facts)
        layers = [forward_flops(first.facts, 1, length) for length, _ in texts]
        if all(layers) and logits is not None:
            places = {_judged(stage).key: _judged(stage) for stage in stages}
            edits = [places[key] for key in places for _ in ("zeros", "mean")]
            edits += [_judged(stage) for stage in stages]
            edits += [_judged(stage) for stage in plain for _ in spec.controls]
            forward = 0
            for one, (_, n) in zip(layers, texts, strict=True):
                assert one is not None
                whole = first.facts.n_layers * one + logits
                token = (1 + bool(shown)) * whole
                for place in edits if spec.splice else []:
                    token += whole - _before(place) * one
                forward += n * token
    arithmetic, times = 0, 2 if spec.splice else 1
    for stage in stages:
        dims, width = sides(stage), sae_of(stage.deps["train"].work).width
        if dims is None:
            return tokens, forward, None
        assert width is not None
        arithmetic += tokens * times * 2 * sum(dims) * width
        if stage in plain:
            rows = {"pca": 2 * dims[0], "random": 3 * width}
            products = sum(rows.get(name, 0) for name in spec.controls)
            arithmetic += tokens * times * 2 * dims[0] * products
    return tokens, forward, arithmetic
