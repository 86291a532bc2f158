"""The same rows in the formats of two peers, written and read as they do. For bench/store.py.

- SAELens (decoderesearch/SAELens, `cache_activations_runner.py` and `training/activations_store.py`
  as installed): a Hugging Face dataset in Arrow files, a row per context. Its own code joins the
  shards, and its own `ActivationsStore` reads and shuffles. Arrow has no bfloat16, so it gets
  float16: as many bytes.
- OpenMOSS (OpenMOSS/Language-Model-SAEs, `lm_saes/activation/writer.py` and
  `processors/cached_activation.py`, `processors/activation.py`): `chunk-00000000.safetensors` with
  `activation`, `tokens` and `mask`; a buffer shuffled when full and drained to its half. Told again
  from the published source, since the package is not a dependency.

Neither syncs what it writes, keeps a checksum, or can go on after a kill.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

HOOK = "blocks.0.hook_resid_post"
CONTEXT = 128


def write_saelens(folder: Path, data: Tensor, buffer_rows: int) -> None:
    """`data` float16 [rows, d], a shard per `buffer_rows`. Rows must be whole contexts."""
    from datasets import Array2D, Dataset, Features, Sequence, Value, disable_progress_bars
    from sae_lens.cache_activations_runner import CacheActivationsRunner

    disable_progress_bars()
    features = Features(
        {
            HOOK: Array2D(shape=(CONTEXT, data.shape[1]), dtype="float16"),
            "token_ids": Sequence(Value(dtype="int32"), length=CONTEXT),
        }
    )
    shards = folder / ".tmp_shards"
    shards.mkdir(parents=True)
    for i, start in enumerate(range(0, len(data), buffer_rows)):
        acts = data[start : start + buffer_rows].reshape(-1, CONTEXT, data.shape[1])
        tokens = torch.zeros(acts.shape[:2], dtype=torch.int32)
        shard = Dataset.from_dict({HOOK: acts, "token_ids": tokens}, features=features)
        shard.save_to_disk(shards / f"shard_{i:05d}", num_shards=1)
    CacheActivationsRunner._consolidate_shards(shards, folder, copy_files=False)


def read_saelens(folder: Path, rows: int, d: int, pool: int, batch: int) -> Iterator[Tensor]:
    """Batches float32 [batch, d], mixed in a buffer of `pool` rows."""
    from sae_lens.training.activations_store import ActivationsStore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = ActivationsStore(
            model=None,
            dataset=None,
            streaming=False,
            hook_name=HOOK,
            hook_head_index=None,
            context_size=CONTEXT,
            d_in=d,
            n_batches_in_buffer=pool // CONTEXT,
            total_training_tokens=rows,
            store_batch_size_prompts=32,
            train_batch_size_tokens=batch,
            prepend_bos=False,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
            cached_activations_path=str(folder),
        )
        for _ in range(rows // batch):
            yield next(store)


def write_openmoss(folder: Path, data: Tensor, samples: int = 16) -> None:
    """`data` [rows, d] of any float dtype, `samples` contexts a chunk."""
    from safetensors.torch import save_file

    (folder / HOOK).mkdir(parents=True)
    for i, start in enumerate(range(0, len(data), samples * CONTEXT)):
        acts = data[start : start + samples * CONTEXT].reshape(-1, CONTEXT, data.shape[1])
        tokens = torch.zeros(acts.shape[:2], dtype=torch.int64)
        mask = torch.ones(acts.shape[:2], dtype=torch.bool)
        path = folder / HOOK / f"chunk-{i:08d}.safetensors"
        save_file({"activation": acts, "tokens": tokens, "mask": mask}, path)


def read_openmoss(folder: Path, rows: int, pool: int, batch: int) -> Iterator[Tensor]:
    """Batches float32 [batch, d] from a buffer of `pool` rows: shuffled when it is full, then drawn
    from until it is half empty. Each draw joins the buffer anew, as theirs does."""
    from safetensors.torch import load_file

    generator = torch.Generator().manual_seed(0)
    held: list[Tensor] = []
    left = rows // batch
    for path in sorted((folder / HOOK).glob("chunk-*.safetensors")):
        chunk = load_file(path)
        held.append(chunk["activation"].float()[chunk["mask"]])
        if sum(map(len, held)) < pool:
            continue
        joined = torch.cat(held)
        held = [joined[torch.randperm(len(joined), generator=generator)]]
        while len(held[0]) >= max(pool // 2, batch) and left:
            joined = torch.cat(held)
            held = [joined[batch:]]
            left -= 1
            yield joined[:batch]
    while left:
        joined = torch.cat(held)
        held = [joined[batch:]]
        left -= 1
        yield joined[:batch]
