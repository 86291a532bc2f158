"""Whether a release's folder still says what its own records say: its cards, and its numbers.

A folder is all that is needed: cards are made again from cfg.json, metrics.json and the manifest
and compared to the byte; numbers are measured again on held-out text, with the very meters of the
evaluation. That text is read from a workspace that has it, or made again where it is built in.
The mean that training saw is not in a release, so nothing that hangs on it (mean-ablation) is
measured again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from sae_cli.errors import StoreError
from sae_cli.lm.device import pick_device
from sae_cli.lm.load import load_model, load_tokenizer
from sae_cli.lm.pack import Packer
from sae_cli.lm.restart import Forwards
from sae_cli.lm.sites import Tap, find_tap
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import DataSpec, EvalSpec, MaskSpec, ModelSpec
from sae_cli.stages.card import README, card, sae_card
from sae_cli.stages.card_entry import STUDIES, Entry
from sae_cli.stages.eval import batch
from sae_cli.stages.eval_place import Batch, Place, Site
from sae_cli.stages.eval_sae import SPLIT
from sae_cli.stages.formats import Account
from sae_cli.stages.metrics import METRICS
from sae_cli.stages.release import digests
from sae_cli.stages.scores import Scores
from sae_cli.store.atomic import read_json
from sae_cli.store.blocks import BlockReader
from sae_cli.store.releases import Manifest
from sae_cli.store.weights import CFG, load_sae

NAMES = (
    "l0_v1", "fvu.pooled_v1", "cosine_v1", "ce.clean_v1", "ce.spliced_v1", "ce.zero_v1",
    "ce_recovered.zero_v1", "kl.spliced_v1",
)  # fmt: skip
"""What is measured again."""
WHOLE, ROUNDED = 0.01, 0.05
"""How far a number may be off, as a share of the recorded one, where all of the text was used: the
weights as they were measured, and weights that were rounded to another number format since."""
FLOOR = 0.1
"""What a smaller number counts as, in that: so 0.001 is always allowed."""
AT_ONCE = 1024
"""Tokens of a forward, about."""
WIDTHS = 2.0
"""Where it was another amount of the text: the recorded number lies within so many times that
amount's own 95% interval, each side for itself, and the margin above."""


@dataclass(frozen=True)
class Again:
    """A number that was measured again. `low` and `high` are what the record may say beside it;
    None, with a reason, where there is nothing to judge by."""

    sae: str
    metric: str
    recorded: float | None
    found: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the record stands, or can't be judged."""
        if self.low is None or self.high is None:
            return self.reason is not None
        return self.recorded is not None and self.low <= self.recorded <= self.high


def cards(folder: Path, manifest: Manifest) -> list[str]:
    """Cards that are not what the records in the folder make, by file. Raises StoreError when a
    record can't be read."""
    record = manifest.record
    entries = [_entry(folder, name, made) for name, made in record["saes"].items()]
    known = {f.name for f in fields(Account)}
    formats = {
        name: Account(**{n: v for n, v in one.items() if n in known})
        for name, one in record.get("formats", {}).items()
    }
    about, version = record["release"], manifest.saectl
    wanted = {README: card(manifest.suite, about, entries, formats, version)}
    for e in entries:
        own = digests(folder / e.folder)
        wanted[f"{e.folder}/{README}"] = sae_card(e, manifest.suite, about, own, version)
    return [name for name, text in wanted.items() if _text(folder / name) != text.encode()]


def _entry(folder: Path, name: str, made: dict[str, Any]) -> Entry:
    cfg, metrics = read_json(folder / name / CFG), read_json(folder / name / METRICS)
    if not isinstance(cfg, dict) or not isinstance(metrics, dict):
        raise StoreError(f"{folder / name} lacks {CFG} or {METRICS}")
    return Entry(name, cfg, metrics, made, read_json(folder / name / STUDIES) or {})


def _text(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


class _Known(Site):
    """A site of which only the norm limit is known."""

    def __init__(self, tap: Tap, mask: MaskSpec, limit: float | None, device: torch.device) -> None:
        self.tap, self.mask, self.limit = tap, mask, limit
        self.mean = torch.zeros(tap.dim, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class Text:
    """The first held-out blocks."""

    tokens: NDArray[np.int32]
    reasons: NDArray[np.uint8]
    documents: NDArray[np.int64]


def stored_text(path: Path, blocks: int) -> Text:
    """The first blocks that a tokens stage of a workspace holds."""
    reader = BlockReader(path)
    n = min(blocks, reader.n_blocks(SPLIT))
    return Text(
        reader.tokens(SPLIT, 0, n), reader.reasons(SPLIT, 0, n), reader.document(SPLIT, 0, n)
    )


def made_text(data: DataSpec, model: ModelSpec, blocks: int) -> Text:
    """The same blocks, packed again."""
    found, left = list[Any](), blocks
    for group in Packer(data, load_tokenizer(model), group=1).blocks():
        if group.part == SPLIT:
            found.append(group)
            left -= len(group.tokens)
        if left <= 0:
            break
    arrays = ("tokens", "reasons", "document")
    return Text(*(np.concatenate([getattr(g, name) for g in found]) for name in arrays))


def measure(
    folder: Path, names: Sequence[str], model: ModelSpec, text: Text, device: str
) -> Iterator[Again]:
    """The numbers of these SAEs again, one SAE after another. Raises StoreError or ModelError when
    an SAE or the model can't be read."""
    where = pick_device(device)
    loaded = load_model(model, where)
    numbers = np.unique(text.documents)
    for name in names:
        cfg, record = read_json(folder / name / CFG), read_json(folder / name / METRICS)
        scores = _scored(folder / name, record, loaded, text, numbers, where)
        part = scores.rebuilt.n != record["tokens"]
        own = cfg["metadata"]["saectl"]
        rounded = own.get("metrics_dtype", cfg["dtype"]) != cfg["dtype"]
        found = scores.record(EvalSpec())
        for metric in NAMES:
            yield _judged(name, metric, record, found, part=part, rounded=rounded)


def _scored(
    folder: Path,
    record: dict[str, Any],
    model: PreTrainedModel,
    text: Text,
    numbers: NDArray[np.int64],
    device: torch.device,
) -> Scores:
    held = load_sae(folder)
    own = held.cfg["metadata"]["saectl"]
    mask, limit = MaskSpec.model_validate(own["mask"]), record["outlier_norm"]
    sites = {
        site: _Known(find_tap(model, own["layer"], site), mask, limit, device)
        for site in (own["site"], own.get("out_site") or own["site"])
    }
    place = Place(sites[own["site"]], sites[own.get("out_site") or own["site"]], len(numbers))
    sae = SAE.from_tensors(held.tensors, held.arch, held.k).to(device, torch.float32)
    scores, forwards = Scores(sae, place), Forwards(model)
    documents = np.searchsorted(numbers, text.documents)
    per = max(1, AT_ONCE // text.tokens.shape[1])
    for b in range(0, len(text.tokens), per):
        if scores.rebuilt.n >= record["tokens"]:
            break
        at = slice(b, b + per)
        tokens = torch.from_numpy(text.tokens[at].astype(np.int64)).to(device)
        some = Batch(tokens, text.reasons[at], torch.from_numpy(documents[at]).to(device))
        batch(forwards, [scores], some, splice=True)
    return scores


def _judged(
    sae: str,
    metric: str,
    record: dict[str, Any],
    found: dict[str, Any],
    *,
    part: bool,
    rounded: bool,
) -> Again:
    said, now = record["metrics"].get(metric), found["metrics"][metric]
    if said is None or said["value"] is None:
        why = (
            "the record does not have it" if said is None else f"recorded as null: {said['reason']}"
        )
        return Again(sae, metric, None, now["value"], reason=why)
    if now["value"] is None:
        return Again(sae, metric, said["value"], None, reason=now["reason"])
    value = float(now["value"])
    margin = (ROUNDED if rounded else WHOLE) * max(abs(said["value"]), FLOOR)
    low = high = margin
    if part:
        around = found["intervals"][metric]
        if around["low"] is None:
            return Again(sae, metric, said["value"], value, reason=around["reason"])
        low += WIDTHS * (value - around["low"])
        high += WIDTHS * (around["high"] - value)
    return Again(sae, metric, said["value"], value, value - low, value + high)
