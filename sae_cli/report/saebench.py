"""Our numbers in the form of SAEBench's core results (0.6.0), for what reads such files.

One file per SAE, named as SAEBench names that of a custom SAE. What a field means there is written
here by our formula for the same thing, which is not always the code's that wrote other files:

    explained_variance         `ev.pooled_v1`, pooled over all tokens about their mean
    explained_variance_legacy  `ev.per_token_v1`, about the mean of training instead of a batch's
    mse                        `mse_v1`, not divided by the tokens of a batch once more
    ce_loss_*, kl_div_*        the mask's tokens alone are ablated; SAEBench ablates all positions
    total_tokens_*             tokens, and predictions, that were counted, not those that were read

SAEBench puts -1 where a number is missing. Here it is null, and `eval_result_unstructured.saectl`
says why: null is all that its own model of the file refuses, so a file is as valid as its SAE's
evaluation is whole. Per-latent details are left out, as its form allows: they ask for counts by
prompt, which no record has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_cli.plan.place import folder
from sae_cli.report.files import put
from sae_cli.report.gather import Scored
from sae_cli.report.table import LongRow, long_rows
from sae_cli.spec.work import CacheWork, EvalWork, TokensWork
from sae_cli.store.layout import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = "core, sae-bench 0.6.0"
METRICS: dict[str, dict[str, str]] = {
    "model_behavior_preservation": {
        "kl_div_with_ablation": "kl.zero_v1",
        "kl_div_with_sae": "kl.spliced_v1",
    },
    "model_performance_preservation": {
        "ce_loss_score": "ce_recovered.zero_v1",
        "ce_loss_with_ablation": "ce.zero_v1",
        "ce_loss_with_sae": "ce.spliced_v1",
        "ce_loss_without_sae": "ce.clean_v1",
    },
    "reconstruction_quality": {
        "explained_variance": "ev.pooled_v1",
        "explained_variance_legacy": "ev.per_token_v1",
        "mse": "mse_v1",
        "cossim": "cosine_v1",
    },
    "shrinkage": {
        "l2_norm_in": "norm_in_v1",
        "l2_norm_out": "norm_out_v1",
        "l2_ratio": "norm_ratio_v1",
        "relative_reconstruction_bias": "shrinkage_v1",
    },
    "sparsity": {"l0": "l0_v1", "l1": "l1_v1"},
}
"""Their categories and fields, and our metrics."""
MISC = (
    "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent",
    "normalized_freq_over_10_percent", "frac_alive", "average_max_encoder_cosine_sim",
    "average_max_decoder_cosine_sim",
)  # fmt: skip
NO_TRANSCODERS = "SAEBench's core evaluation knows no transcoders"
_AT_ONCE = 1024


def write_saebench(
    found: Sequence[Scored], workspace: Workspace, into: Path
) -> tuple[list[Path], list[str]]:
    """Write a file for each SAE into a folder; their paths, and what is to be said of them."""
    into.mkdir(parents=True, exist_ok=True)
    paths, notes = [], []
    for each in found:
        if each.row.out_site is not None:
            notes.append(f"{each.id}: not written: {NO_TRANSCODERS}")
            continue
        record = core(each, workspace)
        nulls = record["eval_result_unstructured"]["saectl"]["null"]
        if nulls:
            names = ", ".join(nulls)
            notes.append(f"{each.id}: null, so not valid for SAEBench's own model: {names}")
        path = into / f"{each.id}_custom_sae_eval_results.json".replace("/", "_")
        put(path, _json(record))
        paths.append(path)
    return paths, notes


def core(scored: Scored, workspace: Workspace) -> dict[str, Any]:
    """The file of one SAE, as plain data."""
    row = next(r for r in long_rows([scored]) if r.sae_id == scored.id)
    nulls: dict[str, str] = {}
    metrics: dict[str, dict[str, float | None]] = {}
    for category, names in METRICS.items():
        metrics[category] = {}
        for field, name in names.items():
            one = scored.measured.get(name)
            metrics[category][field] = None if one is None else one.value
            if one is None:
                nulls[f"{category}.{field}"] = f"{name} was not measured: evaluate anew"
            elif one.value is None:
                nulls[f"{category}.{field}"] = one.reason or "no reason was recorded"
    behavior = metrics["model_behavior_preservation"]
    ablated, spliced = behavior["kl_div_with_ablation"], behavior["kl_div_with_sae"]
    score = (ablated - spliced) / ablated if ablated and spliced is not None else None
    behavior["kl_div_score"] = score
    if score is None:
        nulls["model_behavior_preservation.kl_div_score"] = "ablation moves nothing, or is unknown"
    misc = _misc(scored, workspace)
    nulls |= {f"misc_metrics.{name}": why for name, why in misc.items() if isinstance(why, str)}
    numbers = {name: None if isinstance(v, str) else v for name, v in misc.items()}
    kept = scored.parts[0]
    tokens = {
        "total_tokens_eval_reconstruction": kept.predictions,
        "total_tokens_eval_sparsity_variance": kept.tokens,
    }
    nulls |= {f"token_stats.{n}": "no record says it" for n, v in tokens.items() if v is None}
    return {
        "eval_type_id": "core",
        "eval_config": _config(scored, row),
        "eval_id": scored.score.key,
        "datetime_epoch_millis": int(scored.done.finished_at * 1000),
        "eval_result_metrics": {**metrics, "token_stats": tokens, "misc_metrics": numbers},
        "eval_result_details": [],
        "sae_bench_commit_hash": f"none: measured by saectl {row.tool_version}",
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": scored.id,
        "sae_lens_version": None,
        "sae_cfg_dict": _sae(scored, row),
        "eval_result_unstructured": {
            "saectl": {
                "schema": SCHEMA,
                "null": nulls,
                "mask": row.mask_policy,
                "model_revision": row.model_revision,
                "dataset_sha256": row.dataset_sha256,
                "control_of": row.control_of,
                "config_hash": row.config_hash,
                "metrics": {f: n for names in METRICS.values() for f, n in names.items()},
            }
        },
    }


def _config(scored: Scored, row: LongRow) -> dict[str, Any]:
    work, text = scored.score.work, scored.train.deps["tokens"].work
    capture = scored.train.deps["cache"].work
    assert isinstance(work, EvalWork) and isinstance(text, TokensWork)
    assert isinstance(capture, CacheWork)
    spec, data = work.eval, text.data
    blocks = data.heldout_blocks
    if spec.tokens is not None:
        blocks = min(blocks, -(-spec.tokens // data.context))
    per = max(1, spec.batch_tokens // data.context)
    computed = ("kl", "ce_loss"), ("l2_norms", "sparsity_metrics", "variance_metrics")
    return {
        "model_name": row.model_id,
        "llm_dtype": row.llm_dtype,
        "batch_size_prompts": per,
        "n_eval_reconstruction_batches": -(-blocks // per),
        "n_eval_sparsity_variance_batches": -(-blocks // per),
        "dataset": row.dataset_id,
        "context_size": data.context,
        **{f"compute_{name}": spec.splice for name in computed[0]},
        **{f"compute_{name}": True for name in computed[1]},
        "compute_featurewise_density_statistics": False,
        "compute_featurewise_weight_based_metrics": False,
        "exclude_special_tokens_from_reconstruction": capture.mask.special,
        "verbose": False,
    }


def _sae(scored: Scored, row: LongRow) -> dict[str, Any]:
    cfg, known = scored.config, scored.config.get("metadata", {})
    return {
        "model_name": row.model_id,
        "d_in": row.d_in,
        "d_sae": row.d_sae,
        "hook_layer": row.layer,
        "hook_name": known.get("hook_name"),
        "context_size": row.context_len,
        "hook_head_index": None,
        "architecture": cfg.get("architecture", scored.row.arch),
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "prepend_bos": False,
        "dtype": row.sae_dtype,
        "training_tokens": row.train_tokens,
    }


def _misc(scored: Scored, workspace: Workspace) -> dict[str, float | str]:
    """Numbers, or why there is none."""
    found: dict[str, float | str] = dict.fromkeys(MISC, "its files are not there any more")
    density = folder(workspace, scored.score).path / "density.safetensors"
    if density.is_file():
        found |= _densities(_load(density)["density"])
    weights = folder(workspace, scored.train).path / "sae_weights.safetensors"
    if weights.is_file():
        tensors = _load(weights)
        found["average_max_encoder_cosine_sim"] = _max_cosine(tensors["W_enc"].T)
        found["average_max_decoder_cosine_sim"] = _max_cosine(tensors["W_dec"])
    return found


def _densities(density: NDArray[Any]) -> Mapping[str, float]:
    total = float(density.sum())
    out = {"frac_alive": float((density > 0).mean())}
    for name, least in (("1_percent", 0.01), ("10_percent", 0.1)):
        over = density > least
        out[f"freq_over_{name}"] = float(over.mean())
        out[f"normalized_freq_over_{name}"] = float(density[over].sum()) / total if total else 0.0
    return out


def _max_cosine(rows: NDArray[Any]) -> float | str:
    """The mean over `rows [n, d]` of the largest cosine with another row; rows that are zero have
    none."""
    import numpy as np

    norms = np.linalg.norm(rows.astype(np.float32), axis=1)
    unit = np.ascontiguousarray(rows[norms > 0], np.float32) / norms[norms > 0, None]
    n = len(unit)
    if n < 2:
        return "fewer than two latents have a direction"
    total = 0.0
    for at in range(0, n, _AT_ONCE):
        cosines = unit[at : at + _AT_ONCE] @ unit.T
        some = np.arange(len(cosines))
        cosines[some, at + some] = -np.inf
        total += float(cosines.max(1).sum(dtype=np.float64))
    return total / n


def _load(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(path))


def _json(record: Mapping[str, Any]) -> bytes:
    import json

    return (json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
