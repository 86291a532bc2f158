"""What the tests of `lm` share; their models and tokenizer are in the folder above."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


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
