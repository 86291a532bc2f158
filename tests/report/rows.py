"""Rows of results that never were measured, for tests of what is made of them."""

from __future__ import annotations

from sae_cli.report.results import SaeRow
from sae_cli.report.table import LongRow


def sae(key: str, **more: object) -> SaeRow:
    """An SAE's row; `metrics` and any field may be given."""
    fields = {
        "slug": f"tiny.L2.resid_post.{key}", "train_key": key, "eval_key": f"e{key}",
        "model": "tiny", "layer": 2, "site": "resid_post", "out_site": None, "arch": "topk",
        "width": 64, "variant": "k8", "metrics": {}, "path": "p",
    }  # fmt: skip
    return SaeRow.model_validate(fields | more)


def number(metric: str, value: float | None, **more: object) -> LongRow:
    """A row of the long table; any column may be given."""
    fields = {
        "run_id": "0" * 8, "sae_id": "one", "sae_sha256": None, "model_id": "tiny",
        "model_revision": "r", "site": "resid_post", "layer": 2, "depth_frac": None, "d_in": 8,
        "d_sae": 64, "expansion": 8.0, "arch": "topk", "k_or_lambda": 8.0, "train_tokens": 100,
        "seed": 0, "metric": metric, "metric_version": 1, "value": value, "unit": "",
        "direction": "none", "null_reason": None, "n_tokens": 50, "mask_policy": "m",
        "outlier_multiple": 10.0, "ablation": "none", "dataset_id": "d", "dataset_sha256": "abc",
        "context_len": 64, "llm_dtype": "float32", "sae_dtype": "float32", "wall_s": 1.0,
        "eval_seed": None, "tool_version": "0", "config_hash": "h", "created_at": "t",
        "out_site": None,
    }  # fmt: skip
    return LongRow.model_validate(fields | more)
