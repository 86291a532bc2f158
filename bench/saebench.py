"""SAEBench's own core evaluation on our SAEs, in an environment of its own: docs/saebench.md.

    python bench/saebench.py --model FOLDER --text TEXTS.jsonl --out RESULTS SAE_FOLDER...

sae-bench asks for older numpy and datasets than saectl, so nothing of saectl is imported here: an
SAE folder is JSON and safetensors. `adapter` makes a subclass of SAEBench's `BaseSAE` that holds
one; give `(name, sae)` to any of its evaluations. SAEBench finds models on the hub by name alone,
and logs and skips what fails: for a local folder of a model, `offline` puts a loader that takes one
in the place of its own, and a run that leaves no file for an SAE ends with an error here.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ARCHITECTURES = ("topk", "jumprelu", "standard")


def adapter(base: type[Any]) -> type[Any]:
    """A subclass of SAEBench's `BaseSAE` for our folders."""

    class SaectlSAE(base):  # type: ignore[misc]
        """Raw activations in, `b_dec` not subtracted, decoder rows of unit norm."""

        def __init__(
            self, folder: Path, device: torch.device, dtype: torch.dtype, model: str | None = None
        ) -> None:
            """`model` is what SAEBench will load; left out, the name that the folder knows."""
            cfg = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
            known = cfg["metadata"]
            if cfg["architecture"] not in ARCHITECTURES or "hook_name_out" in known:
                raise ValueError(f"{folder}: SAEBench can't hold a {cfg['architecture']}")
            hook = known["hook_name"]
            layer = int(hook.split(".")[1])
            name = model or known["model_name"]
            super().__init__(cfg["d_in"], cfg["d_sae"], name, layer, device, dtype, hook)
            held = load_file(folder / "sae_weights.safetensors")
            self.kind, self.k = cfg["architecture"], cfg.get("k")
            threshold = held.get("threshold", torch.zeros(cfg["d_sae"]))
            self.threshold = torch.nn.Parameter(threshold, requires_grad=False)
            for part in ("W_enc", "W_dec", "b_enc", "b_dec"):
                getattr(self, part).data = held[part]
            self.to(dtype=dtype, device=device)
            self.cfg.architecture = self.cfg.architecture_str = self.kind
            self.cfg.context_size = known["context_size"]
            self.cfg.prepend_bos = False

        def encode(self, x: Tensor) -> Tensor:
            """`[..., d_sae]` of `[..., d_in]`."""
            pre = x.to(self.W_enc.dtype) @ self.W_enc + self.b_enc
            if self.kind == "topk":
                best = pre.topk(min(self.k, pre.shape[-1]), dim=-1)
                return torch.zeros_like(pre).scatter_(-1, best.indices, best.values.relu())
            return pre.relu() * (pre > self.threshold)

        def decode(self, feature_acts: Tensor) -> Tensor:
            """`[..., d_in]` of `[..., d_sae]`."""
            return feature_acts @ self.W_dec + self.b_dec

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(x))

    return SaectlSAE


def offline(folder: str) -> None:
    """Let SAEBench load the model of a local folder, whatever name it asks for."""
    from sae_bench.evals.core import main
    from transformer_lens.model_bridge import TransformerBridge

    class Local:
        """Stands where SAEBench expects HookedTransformer."""

        @staticmethod
        def from_pretrained_no_processing(_: str, device: Any, dtype: torch.dtype) -> Any:
            return TransformerBridge.boot_transformers(folder, device=device, dtype=dtype)

    main.HookedTransformer = Local


def run() -> int:
    """The command."""
    asked = argparse.ArgumentParser(description="SAEBench's core evaluation on saectl's SAEs")
    asked.add_argument("saes", nargs="+", type=Path, help="folders with cfg.json")
    asked.add_argument("--model", required=True, help="a local folder of the model")
    asked.add_argument("--text", required=True, help="a .jsonl file of {text}, or a folder of it")
    asked.add_argument("--out", default="saebench")
    asked.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked.add_argument("--dtype", default="float32")
    asked.add_argument("--context", type=int, default=128)
    asked.add_argument("--batches", type=int, default=10)
    options = asked.parse_args()
    from sae_bench.custom_saes.base_sae import BaseSAE
    from sae_bench.evals.core.main import multiple_evals

    offline(options.model)
    kind, dtype = adapter(BaseSAE), getattr(torch, options.dtype)
    device = torch.device(options.device)
    saes = [(f.resolve().name, kind(f, device, dtype, options.model)) for f in options.saes]
    multiple_evals(
        saes,
        n_eval_reconstruction_batches=options.batches,
        n_eval_sparsity_variance_batches=options.batches,
        compute_featurewise_density_statistics=True,  # without these, its own model refuses
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
        dataset=options.text,
        context_size=options.context,
        output_folder=options.out,
        dtype=options.dtype,
        device=options.device,
        force_rerun=True,
    )
    paths = [Path(options.out) / f"{name}_custom_sae_eval_results.json" for name, _ in saes]
    missing = [str(path) for path in paths if not path.is_file()]
    for path in missing:
        print(f"SAEBench wrote no {path}: its log says why", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(run())
