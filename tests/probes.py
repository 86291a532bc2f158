"""The embedded model's embeddings as a site to probe, and an SAE one of whose latents is a word.

`bench(folder)` is what a study is handed, without blocks: probing brings its own texts.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.functional import normalize

from sae_cli.lm.load import load_model, load_tokenizer
from sae_cli.lm.sites import find_tap
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import MaskSpec, ModelSpec
from sae_cli.studies.bench import Bench

_WORDS = ("the", "sailor", "cook", "singer", "net", "red", "blue", "park", "sail", "gull", "soup")
TINY, CPU = ModelSpec(builtin="tiny"), torch.device("cpu")
D_SAE, PLANTED, WORD = 32, 7, "anchor"
_model = cache(lambda: load_model(TINY, CPU))


def planted(latents: int = D_SAE) -> SAE:
    """Random latents of embeddings, of which number PLANTED fires on WORD alone."""
    embedded = _model().get_input_embeddings().weight.float()
    tokenizer = load_tokenizer(TINY)
    (word,) = tokenizer(WORD, add_special_tokens=False)["input_ids"]
    dice = torch.Generator().manual_seed(1)
    encoder = torch.randn(embedded.shape[1], latents, generator=dice)
    bias = torch.zeros(latents)
    centred = embedded - embedded.mean(0)
    direction = torch.linalg.lstsq(
        centred.T @ centred + 1e-3 * torch.eye(len(centred[0])), centred[word][:, None]
    ).solution[:, 0]  # of all directions, the one on which the word stands out most
    seen = embedded @ direction
    others = torch.cat([seen[:word], seen[word + 1 :]])
    assert seen[word] > others.max()
    encoder[:, PLANTED], bias[PLANTED] = direction, -others.max()
    scale = 100 / (seen[word] - others.max())
    encoder[:, PLANTED] *= scale
    bias[PLANTED] *= scale
    decoder = normalize(torch.randn(latents, embedded.shape[1], generator=dice), dim=1)
    return SAE("relu_l1", encoder, decoder, bias, torch.zeros(embedded.shape[1]))


def bench(folder: Path, **changes: Any) -> Bench:
    tap = find_tap(_model(), 0, "resid_pre")
    made = Bench(
        model=_model(),
        spec=TINY,
        tap=tap,
        mask=MaskSpec(),
        limit=None,
        mean=torch.zeros(tap.dim, dtype=torch.float64),
        blocks=cast(Any, None),
        batch_tokens=512,
        device=CPU,
        saes={"aaaaaaaa": planted()},
        twins={},
        scratch=folder,
        cache=folder,
        note=lambda _: None,
    )
    return replace(made, **changes)


def sentences(n: int, seed: int = 0) -> list[tuple[str, bool]]:
    """n different texts of words in random order, and whether WORD is among them."""
    dice = random.Random(seed)
    found: dict[str, bool] = {}
    while len(found) < n:
        said = [dice.choice(_WORDS) for _ in range(dice.randrange(4, 12))]
        if has := dice.random() < 0.5:
            said[dice.randrange(1, len(said))] = WORD
        found[" ".join(said)] = has
    return list(found.items())


def jsonl(path: Path, pairs: list[tuple[str, Any]]) -> str:
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in pairs))
    return str(path)
