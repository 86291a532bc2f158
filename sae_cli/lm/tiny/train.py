"""Trains the embedded model from nothing and writes its folder.

`python -m sae_cli.lm.tiny.train --out DIR` is the whole recipe: it generates the text, trains,
measures on held-out text and prompts, and writes a Hugging Face folder with a `record.json`.
The folder appears complete or not at all. The same seed on the same machine and torch gives the
same bytes. Training needs a torch that has Muon (2.9 or later); using the model does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from .grammar import TRAIN_SEED
from .measure import N_TOKENS, measure, stream
from .tokenizer import build_tokenizer, save_tokenizer


@dataclass(frozen=True)
class Recipe:
    """How the shipped weights were made.

    A step reads `batch` rows of `context` tokens, and in its last `long_share` the same number
    of tokens in rows twice as long. Muon moves the matrices of the layers, Adam the rest.
    """

    steps: int = 1600
    seed: int = 0
    batch: int = 32
    context: int = 64
    long_share: float = 0.25
    muon_lr: float = 0.02
    adam_lr: float = 8e-3
    weight_decay: float = 0.1
    initial_std: float = 0.08
    warmup_share: float = 0.05
    threads: int = 1


def build_model(vocab_size: int, initial_std: float) -> Qwen3ForCausalLM:
    """An untrained model from torch's current seed: 4 layers of width 64, tied embeddings.

    The default initial std of 0.02 learns induction late or never at this size.
    """
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=initial_std,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def _optimizers(model: torch.nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(
            rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
        ),
    ]


def _rate(step: int, recipe: Recipe) -> float:
    """The share of the learning rate at a step: a linear rise, then a linear fall to zero."""
    warmup = max(1, round(recipe.warmup_share * recipe.steps))
    if step < warmup:
        return (step + 1) / warmup
    return (recipe.steps - step) / max(1, recipe.steps - warmup)


def train(recipe: Recipe, tokenizer: Any) -> Any:
    """Trains a `Qwen3ForCausalLM` by the recipe and gives it in eval mode.

    Sets torch's seed, its thread count and deterministic algorithms, for the whole process.
    """
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    model: Any = build_model(len(tokenizer), recipe.initial_std)
    optimizers = _optimizers(model, recipe)
    per_step = recipe.batch * recipe.context
    data = torch.tensor(stream(tokenizer, TRAIN_SEED, recipe.steps * per_step))
    long_from = round((1 - recipe.long_share) * recipe.steps)
    began = time.monotonic()
    for step, block in enumerate(torch.split(data, per_step)):
        rows = block.view(-1, recipe.context * (2 if step >= long_from else 1))
        logits = model(input_ids=rows).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, (recipe.muon_lr, recipe.adam_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * _rate(step, recipe)
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0 or step == recipe.steps - 1:
            took = time.monotonic() - began
            sys.stderr.write(f"step {step:5d}  loss {loss.item():.3f}  {took:.0f} s\n")
    model.eval()
    return model


def write_folder(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    out: Path,
    n_tokens: int = N_TOKENS,
    n_prompts: int | None = None,
) -> dict[str, Any]:
    """Measures the model and writes its folder in one step; gives the record.

    `n_tokens` and `n_prompts` are `measure`'s.

    Raises:
        FileExistsError: `out` exists.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; choose a folder that does not")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        model.generation_config = GenerationConfig.from_dict(
            {"bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": False}
        )
        model.save_pretrained(work)
        save_tokenizer(tokenizer, work)
        weights = (work / "model.safetensors").read_bytes()
        record = {
            "recipe": asdict(recipe),
            "parameters": sum(p.numel() for p in model.parameters()),
            "tokens": recipe.steps * recipe.batch * recipe.context,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "measured_on": {"tokens": n_tokens, "prompts_per_class": n_prompts or "all"},
            "metrics": measure(model, tokenizer, n_tokens, n_prompts),
        }
        (work / "record.json").write_text(json.dumps(record, indent=2) + "\n")
        for path in work.iterdir():
            path.chmod(0o644)
        work.chmod(0o755)
        work.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return record


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: trains and prints the record as JSON."""
    parser = argparse.ArgumentParser(prog="python -m sae_cli.lm.tiny.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument(
        "--eval-tokens", type=int, default=N_TOKENS, help="held-out tokens to score"
    )
    parser.add_argument("--eval-prompts", type=int, default=None, help="per class (default: all)")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    if args.out.exists():
        parser.error(f"{args.out} exists; choose a folder that does not")
    recipe = Recipe(steps=args.steps, seed=args.seed)
    tokenizer = build_tokenizer()
    model = train(recipe, tokenizer)
    record = write_folder(model, tokenizer, recipe, args.out, args.eval_tokens, args.eval_prompts)
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
