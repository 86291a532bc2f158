"""A study's text counts the tokens that the evaluation of the same SAE counts."""

from __future__ import annotations

from dataclasses import replace

import torch

from sae_cli.studies.bench import Bench


def counted(bench: Bench) -> int:
    return sum(int(seen.keep.sum()) for seen in bench.text("heldout", 512))


def test_a_transcoders_tokens_count_at_both_of_its_sites(bench: Bench) -> None:
    norms = torch.cat([s.acts[s.keep].float().norm(dim=-1) for s in bench.text("heldout", 512)])
    middle = float(norms.median())
    alone, half = counted(bench), counted(replace(bench, target=(bench.tap, middle)))
    assert alone == len(norms)
    assert half == int((norms <= middle).sum())
    assert counted(replace(bench, target=(bench.tap, None))) == alone
