"""How many bytes the result of a stage takes on disk, before it is begun.

Counted are the files that hold data: token blocks with the zeros that fill their last chunk;
activations, mask, statistics and index of every shard; weights; densities. Not counted are the
records beside them (JSON, logs, curves, cards: some kilobytes a stage, more only where a training
logs very often), and `work/`, which a done stage no longer has. `tests/plan/test_sizes.py` compares
with what a run leaves.
"""

from __future__ import annotations

from sae_cli.plan.graph import Stage
from sae_cli.spec.stages import BYTES
from sae_cli.spec.train import Train
from sae_cli.spec.work import CacheWork, ReleaseWork, StudyWork, TokensWork, TrainWork

TOKEN_BYTES = 4 + 8 + 4 + 1
"""Of a packed token: id, document, position, reasons."""
NORM_BINS = 1282
"""Bins of the histogram of norms that is kept for each shard (`store.acts.norms`)."""
INDEX_ENTRY, INDEX_END = 16, 4
"""Bytes of a shard's index: for each chunk, and its checksum."""
HEADER = 72
"""Bytes that the header of a safetensors file takes for each tensor, about."""
WITH_THRESHOLD = frozenset(("batchtopk", "matryoshka", "jumprelu", "jumprelu_tanh", "gated"))
"""Architectures whose finished SAE has a threshold for each latent."""


def disk_bytes(stage: Stage) -> int | None:
    """Bytes that a stage's result takes, records apart; None where sizes are not known."""
    work = stage.work
    if isinstance(work, TokensWork):
        return sum(
            work.data.chunked_blocks(blocks) * work.data.context * TOKEN_BYTES
            for blocks in (work.data.train_blocks, work.data.heldout_blocks)
        )
    if isinstance(work, CacheWork):
        return _array_bytes(stage, work)
    if isinstance(work, TrainWork):
        return _sae_bytes(stage, work.train, 4)
    if isinstance(work, ReleaseWork):
        return _release_bytes(stage, work)
    if isinstance(work, StudyWork):
        return 0  # all that it leaves is a record
    train = stage.deps["train"].work
    assert isinstance(train, TrainWork)
    return _density_bytes(train.train, 8)


def sides(stage: Stage) -> tuple[int, int] | None:
    """Dimensions of what an SAE's stage reads and of what it reconstructs or predicts."""
    capture, target = stage.deps["cache"].work, stage.deps.get("target", stage.deps["cache"]).work
    assert isinstance(capture, CacheWork) and isinstance(target, CacheWork)
    if stage.facts is None:
        return None
    return stage.facts.d_in(capture.site), stage.facts.d_in(target.site)


def _array_bytes(stage: Stage, work: CacheWork) -> int | None:
    source = stage.deps["tokens"].work
    assert isinstance(source, TokensWork)
    if stage.facts is None:
        return None
    data, d = source.data, stage.facts.d_in(work.site)
    rows = data.train_blocks * data.context
    shape = (d, data.context, rows)
    chunk, shard = work.cache.chunk_rows(*shape), work.cache.shard_rows(*shape)
    shards = -(-rows // shard)
    columns = 3 if work.cache.dtype == "int8" else 2  # of one row per row
    index = 0 if chunk == shard else columns * (INDEX_ENTRY * shard // chunk + INDEX_END)
    statistics = 8 * (3 + NORM_BINS + 2 * d)
    summed = 8 * (NORM_BINS + 3 * d)  # stats.safetensors
    return (
        -(-rows // chunk) * chunk * work.cache.row_bytes(d) + shards * (index + statistics) + summed
    )


def _sae_bytes(stage: Stage, train: Train, size: int) -> int | None:
    found = sides(stage)
    if found is None:
        return None
    d_in, d_out = found
    assert train.width is not None
    vectors = 2 if train.arch in WITH_THRESHOLD else 1
    skip = d_in * d_out if getattr(train, "skip", False) else 0
    numbers = (d_in + d_out + vectors) * train.width + d_out + skip
    return size * numbers + HEADER * (3 + vectors + bool(skip))


def _release_bytes(stage: Stage, work: ReleaseWork) -> int | None:
    total = 0
    for sae in stage.deps.values():
        if isinstance(sae.work, TrainWork):
            found = _sae_bytes(sae, sae.work.train, BYTES[work.release.dtype])
            if found is None:
                return None
            total += found + _density_bytes(sae.work.train, 4)
            held = _held_by(sae.work.train) & set(work.release.formats)
            total += len(held) * (_sae_bytes(sae, sae.work.train, 4) or 0)
    return total


def _held_by(train: Train) -> set[str]:
    """The formats of a release, besides SAELens's, that can hold an SAE so trained."""
    if getattr(train, "out_site", None) is not None:
        return {"sparsify"} if train.arch == "topk" else {"circuit-tracer"}
    if train.arch == "topk":
        return {"sparsify", "dictionary_learning", "qwen-scope"}
    return {"dictionary_learning", "gemma-scope"}


def _density_bytes(train: Train, size: int) -> int:
    assert train.width is not None
    return size * train.width + HEADER
