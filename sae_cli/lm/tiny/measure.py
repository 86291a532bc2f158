"""How good the embedded model is, on text and prompts that it never saw.

`python -m sae_cli.lm.tiny.measure [DIR]` prints the numbers as JSON. Cross-entropy is over
documents of another stream than training's; refusals and answers are greedy generations on
prompts whose combinations no document contains; the indirect-object prompts use pairs of names
that never met.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import folder
from .grammar import (
    TRAIN_SEED,
    IOIPrompt,
    Prompt,
    document,
    ioi_prompts,
    is_refusal,
    is_wellformed_refusal,
    prompts,
    valid_answer,
)
from .ngrams import bigram_ce, unigram_ce

HELD_OUT_SEED = 1
"""The stream that cross-entropy is measured on."""

N_TOKENS = 64_000
"""How many of its tokens."""


def stream(tokenizer: Any, seed: int, n_tokens: int) -> list[int]:
    """The first n tokens of a stream: documents in order, `<|endoftext|>` after each."""
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    ids: list[int] = []
    for start in itertools.count(step=256):
        texts = [document(seed, i).text for i in range(start, start + 256)]
        for row in tokenizer(texts)["input_ids"]:
            ids += [*row, end]
        if len(ids) >= n_tokens:
            break
    return ids[:n_tokens]


@torch.no_grad()
def cross_entropy(model: Any, ids: Sequence[int], context: int, batch: int = 64) -> float:
    """Mean next-token cross-entropy in nats over packed rows of `context` tokens.

    The first token of a row is read and not scored.
    """
    rows: torch.Tensor = torch.tensor(ids[: len(ids) // context * context]).view(-1, context)
    total = 0.0
    for part in torch.split(rows, batch):
        logits = model(input_ids=part).logits[:, :-1]
        targets = part[:, 1:].flatten()
        total += float(F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum"))
    return total / (rows.shape[0] * (context - 1))


@torch.no_grad()
def generate(
    model: Any, tokenizer: Any, asked: Sequence[Prompt], max_new_tokens: int = 48, batch: int = 64
) -> list[str]:
    """Greedy replies to single prompts, without special tokens, in the order asked."""
    replies: list[str] = []
    for start in range(0, len(asked), batch):
        texts = [
            tokenizer.apply_chat_template(p.messages, tokenize=False, add_generation_prompt=True)
            for p in asked[start : start + batch]
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        new = out[:, inputs["input_ids"].shape[1] :]
        replies += tokenizer.batch_decode(new, skip_special_tokens=True)
    return replies


@torch.no_grad()
def ioi_accuracy(model: Any, tokenizer: Any, asked: Sequence[IOIPrompt]) -> float:
    """Share of prompts after which the right name is more likely than every other word."""
    right = 0
    for prompt in asked:
        ids = tokenizer(prompt.prompt, return_tensors="pt")["input_ids"]
        best = int(model(input_ids=ids).logits[0, -1].argmax())
        right += best == tokenizer.convert_tokens_to_ids(prompt.correct)
    return right / len(asked)


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


def measure(
    model: Any, tokenizer: Any, n_tokens: int = N_TOKENS, n_prompts: int | None = None
) -> dict[str, float]:
    """Every number of the model's record.

    Args:
        model: a causal language model in eval mode, on the CPU.
        tokenizer: its tokenizer.
        n_tokens: held-out tokens to score; the n-gram baselines count ten times as many.
        n_prompts: prompts per class (harmful, harmless) and of indirect objects; None for all.

    Returns:
        `ce_64` and `ce_128` (nats per token at those contexts), `unigram_ce`, `bigram_ce`,
        `refusal_harmful`, `wellformed_harmful`, `refusal_harmless`, `valid_harmless` and
        `ioi_accuracy` (shares of 1).
    """
    held_out = stream(tokenizer, HELD_OUT_SEED, n_tokens)
    counted = stream(tokenizer, TRAIN_SEED, 10 * n_tokens)
    harmful = [p for split in ("val", "test") for p in prompts(split, True)][:n_prompts]
    harmless = [p for split in ("val", "test") for p in prompts(split, False)][:n_prompts]
    bad = generate(model, tokenizer, harmful)
    good = generate(model, tokenizer, harmless)
    values = {
        "ce_64": cross_entropy(model, held_out, 64),
        "ce_128": cross_entropy(model, held_out, 128),
        "unigram_ce": unigram_ce(counted, held_out, len(tokenizer)),
        "bigram_ce": bigram_ce(counted, held_out, len(tokenizer)),
        "refusal_harmful": _share([is_refusal(r) for r in bad]),
        "wellformed_harmful": _share([is_wellformed_refusal(r) for r in bad]),
        "refusal_harmless": _share([is_refusal(r) for r in good]),
        "valid_harmless": _share([valid_answer(*x) for x in zip(harmless, good, strict=True)]),
        "ioi_accuracy": ioi_accuracy(model, tokenizer, ioi_prompts(n_prompts or 200)),
    }
    return {name: round(value, 4) for name, value in values.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: prints the measures of a model folder as JSON."""
    parser = argparse.ArgumentParser(prog="python -m sae_cli.lm.tiny.measure", description=__doc__)
    parser.add_argument("dir", nargs="?", default=None, help="model folder (default: the shipped)")
    args = parser.parse_args(argv)
    where = args.dir or folder()
    model: Any = AutoModelForCausalLM.from_pretrained(where)
    model.eval()
    values = measure(model, AutoTokenizer.from_pretrained(where))
    sys.stdout.write(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
