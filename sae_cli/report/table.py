"""The long table of results: one row per SAE x metric x slice, from the records on disk alone.

The columns are those of the field's shared schema, and `out_site` for transcoders. What no record
says is null. `created_at` is when the evaluation was finished, so the same records make the same
bytes whenever the table is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sae_cli.plan.graph import Stage
from sae_cli.plan.place import record_of
from sae_cli.report.catalogue import KEPT, Ablation, Direction, meaning, version_of
from sae_cli.report.gather import Measured, Part, Scored
from sae_cli.report.kin import RANDOM_MODEL
from sae_cli.report.seeds import Group, groups
from sae_cli.spec.base import Frozen
from sae_cli.spec.stages import MaskSpec, ModelSpec, Source
from sae_cli.spec.work import CacheWork, TokensWork, sae_of
from sae_cli.store.key import canonical

PER_LATENT = ("dead_fraction_v1", "dense_fraction_v1")
"""Shares of latents: their units are counted."""


class LongRow(Frozen):
    """One number of one SAE, with all that is needed to know what it means."""

    run_id: str | None
    """Key of the evaluation, or of the study; null of a mean over seeds, which is of several."""
    sae_id: str
    """Name and key of the SAE; a control's row has that of the SAE it stands beside, but that of
    an SAE of a random model its own, and a mean over seeds that of the SAEs without a seed."""
    sae_sha256: str | None
    """Of the weights, as the training's record has it."""
    model_id: str
    model_revision: str | None
    """Commit of a hub model; else sha256 of the model's files."""
    site: str
    layer: int
    depth_frac: float | None
    """layer / (layers - 1): 0 is the first layer, 1 the last."""
    d_in: int | None
    d_sae: int | None
    expansion: float | None
    """d_sae / d_in."""
    arch: str
    """Of a control: its name, as `random_model` of an SAE of a model with random weights."""
    k_or_lambda: float | None
    """The sparsity field of the architecture: k, l0, l1 or tanh; a control's components a token."""
    train_tokens: int | None
    seed: int | None
    """Of the training; of a control that was not trained, what it was drawn with; null of a mean
    over seeds."""
    metric: str
    metric_version: int | None
    value: float | None
    unit: str
    direction: Direction
    """Which way is better."""
    null_reason: str | None
    """Why there is no value."""
    ci_low: float | None = None
    """Ends of the confidence interval: over documents where the evaluation made one, by Student's t
    of a mean over seeds."""
    ci_high: float | None = None
    n_tokens: int | None = None
    """Tokens, or predictions of a metric of the model, that were counted."""
    n_seqs: int | None = None
    """Documents that the interval was drawn from."""
    n_units: int | None = None
    """Latents that a share of latents is of; what a study is over (labels, examples); seeds that a
    mean is of."""
    mask_policy: str
    outlier_multiple: float | None
    n_masked: int | None = None
    ablation: Ablation
    slice: str = KEPT
    """Which of the tokens; `kept` are those that the mask lets count."""
    dataset_id: str
    dataset_sha256: str | None
    """Digest over the packed token blocks, training's and held-out ones."""
    context_len: int
    llm_dtype: str
    sae_dtype: str | None
    accum_dtype: str = "float64"
    """Sums of every metric."""
    eval_seed: int | None
    """Of the bootstrap behind intervals."""
    judge_model: str | None = None
    control_of: str | None = None
    """`sae_id` of what this row is a control of; null for an SAE's own."""
    wall_s: float | None
    """Seconds of the whole evaluation, which shares its forwards with others; null of a mean."""
    device: str | None = None
    tool_version: str
    git_sha: str | None = None
    config_hash: str
    """sha256 of what the run's key is made from."""
    created_at: str
    """When the run was finished, UTC."""
    out_site: str | None
    """What a transcoder predicts; null for an SAE."""


COLUMNS = tuple(LongRow.model_fields)


def own(row: LongRow) -> bool:
    """Whether a row is of the SAE that it names: not of a control that was judged beside it."""
    return row.control_of != row.sae_id


def long_rows(found: Sequence[Scored]) -> list[LongRow]:
    """The rows of these SAEs: each one's own metrics first, then its slices and controls. Behind
    all of them, means over seeds, of SAEs of which there are enough."""
    means = [row for group, control_of in groups(found) for row in _means(group, control_of)]
    return [row for each in found for row in _rows(each)] + means


def jsonl(rows: Sequence[LongRow]) -> bytes:
    """The rows as JSON lines; the same rows, the same bytes."""
    lines = (json.dumps(r.model_dump(), ensure_ascii=False, allow_nan=False) for r in rows)
    return "".join(line + "\n" for line in lines).encode()


def _rows(scored: Scored) -> list[LongRow]:
    base = _base(scored)
    return [
        LongRow.model_validate(
            base | _by(part) | _beside(scored, part) | _number(scored, part, name, found)
        )
        for part in scored.parts
        for name, found in part.measured.items()
    ]


def _means(group: Group, control_of: str | None) -> list[LongRow]:
    """Of each slice and metric, what the SAEs of all seeds say together."""
    each = [_base(scored) for scored in group.members]
    hashes = "".join(base["config_hash"] for base in each).encode("ascii")
    base = each[0] | {
        **dict.fromkeys(("run_id", "sae_sha256", "seed", "eval_seed", "wall_s")),
        "sae_id": group.id,
        "control_of": control_of,
        "config_hash": hashlib.sha256(hashes).hexdigest(),
        "created_at": max(base["created_at"] for base in each),
    }
    rows = []
    for parts, found in group.parts():
        alike = len({(part.tokens, part.predictions) for part in parts}) == 1
        for name, one in found.items():
            said = _number(group.members[0], parts[0], name, one)
            said |= {"n_units": len(parts), "n_tokens": said["n_tokens"] if alike else None}
            rows.append(LongRow.model_validate(base | said))
    return rows


def _beside(scored: Scored, part: Part) -> dict[str, Any]:
    """What is otherwise in a control's rows: what was trained is no part of it."""
    if part.control is None:
        return {}
    nothing = ("sae_sha256", "d_sae", "expansion", "train_tokens", "sae_dtype")
    return dict.fromkeys(nothing) | {
        "arch": part.control["name"],
        "k_or_lambda": part.control.get("k"),
        "seed": part.control.get("seed"),
        "control_of": scored.id,
    }


def _number(scored: Scored, part: Part, name: str, found: Measured) -> dict[str, Any]:
    about = meaning(name)
    counted = part.predictions if about.model_level else part.tokens
    low, high = found.interval or (None, None)
    return {
        "metric": name,
        "metric_version": version_of(name),
        "value": found.value,
        "unit": about.unit,
        "direction": about.direction,
        "null_reason": found.reason,
        "ci_low": low,
        "ci_high": high,
        "n_tokens": counted if about.formula else None,
        "n_seqs": found.documents,
        "n_units": _units(scored, part, name, found),
        "ablation": about.ablation,
        "slice": part.slice,
    }


def _units(scored: Scored, part: Part, name: str, found: Measured) -> int | None:
    """Latents that a share of latents is of; whatever a study's figure is over."""
    if part.study is not None:
        return found.counted
    return scored.row.width if name in PER_LATENT and part.control is None else None


def _by(part: Part) -> dict[str, Any]:
    """What is otherwise in a study's rows: which run made them, and when."""
    if part.study is None:
        return {}
    finished = datetime.fromtimestamp(part.study.done.finished_at, UTC)
    return {
        "run_id": part.study.stage.key,
        "wall_s": round(part.study.done.seconds, 3),
        "tool_version": part.study.done.saectl,
        "config_hash": _config_hash(part.study.stage),
        "created_at": finished.isoformat("T", "seconds"),
        "judge_model": part.study.method.get("judge_model"),
        "eval_seed": part.study.method.get("seed"),
    }


def _base(scored: Scored) -> dict[str, Any]:
    train, row = scored.train, scored.row
    capture, text = train.deps["cache"].work, train.deps["tokens"].work
    assert isinstance(capture, CacheWork) and isinstance(text, TokensWork)
    spec, data = sae_of(train.work), text.data
    d_in, last = scored.config.get("d_in"), train.facts and train.facts.n_layers - 1
    finished = datetime.fromtimestamp(scored.done.finished_at, UTC)
    weights = {} if scored.trained is None else scored.trained.outputs
    return {
        "run_id": scored.score.key,
        "sae_id": scored.id,
        "sae_sha256": weights.get("sae_weights.safetensors", {}).get("sha256"),
        "model_id": _model_id(capture.model, row.model),
        "model_revision": revision(capture.model),
        "site": capture.site,
        "out_site": row.out_site,
        "layer": capture.layer,
        "depth_frac": capture.layer / last if last else None,
        "d_in": d_in,
        "d_sae": row.width,
        "expansion": row.width / d_in if d_in else None,
        "arch": row.arch if scored.control_of is None else RANDOM_MODEL,
        "control_of": scored.control_of,
        "k_or_lambda": getattr(spec, spec.sparsity[1]),
        "train_tokens": getattr(spec, "num_tokens", None),  # of what others trained: not known
        "seed": getattr(spec, "seed", None),
        "mask_policy": mask_words(capture.mask, data.train_on),
        "outlier_multiple": capture.mask.outlier_multiple,
        "dataset_id": " + ".join(source_id(s) for s in data.sources),
        "dataset_sha256": None if scored.tokens is None else scored.tokens.sha256,
        "context_len": data.context,
        "llm_dtype": capture.model.dtype,
        "sae_dtype": scored.config.get("dtype"),
        "eval_seed": scored.record.get("bootstrap", {}).get("seed"),
        "wall_s": round(scored.done.seconds, 3),
        "tool_version": scored.done.saectl,
        "config_hash": _config_hash(scored.score),
        "created_at": finished.isoformat("T", "seconds"),
    }


def _config_hash(stage: Stage) -> str:
    return hashlib.sha256(canonical(record_of(stage)).encode("ascii")).hexdigest()


def _model_id(model: ModelSpec, name: str) -> str:
    known = model.hf or model.builtin
    return name if known is None else known + model.anew


def revision(model: ModelSpec) -> str | None:
    """Which bytes of a model: its commit, else the digest of its files; None if not known."""
    return model.revision or (model.digest and f"sha256:{model.digest}") or None


def source_id(source: Source) -> str:
    """A source's name, with configuration and revision where it has them."""
    name = source.hf or (source.builtin and f"builtin:{source.builtin}") or "local files"
    parts = [name, source.config, source.revision and f"@{source.revision[:12]}"]
    return " ".join(part for part in parts if part)


def mask_words(mask: MaskSpec, roles: Sequence[str] | None) -> str:
    """Which tokens count, in words; the same words mean the same rule."""
    parts = [
        "no special tokens" if mask.special else "",
        f"not the first {mask.first_positions} of a context" if mask.first_positions else "",
        "" if mask.outlier_multiple is None
        else f"no norm above {mask.outlier_multiple:g} x the median",
        f"only what {' and '.join(roles)} say" if roles else "",
    ]  # fmt: skip
    return ", ".join(filter(None, parts)) or "every token"
