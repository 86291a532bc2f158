"""What the tests of `lm` share; their models and tokenizer are in the folder above."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from texts import corpus

from sae_cli.spec.stages import DataSpec, Source


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are faster without a thread pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def blocks() -> torch.Tensor:
    """Token ids [3, 11]."""
    return torch.randint(1, 97, (3, 11), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def two(tmp_path: Path) -> DataSpec:
    """Two sources, one of longer documents and a third of the weight."""
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    corpus(a, 1)
    corpus(b, 2, longest=90)
    return DataSpec(
        sources=(Source(path=str(a), weight=3.0), Source(path=str(b))),
        tokens=3000,
        heldout_tokens=700,
        context=16,
        seed=4,
    )
