"""A small sweep with its tokens, for the tests of what captures make of them."""

from __future__ import annotations

import pytest
from captures import Small
from transformers import PreTrainedModel

from sae_cli.lm.load import load_model
from sae_cli.spec.work import CacheWork


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The sweep with its tokens, and nothing else. Don't change it."""
    here = Small(tmp_path_factory.mktemp("packed"))
    here.pack()
    return here


@pytest.fixture(scope="session")
def model(packed: Small) -> PreTrainedModel:
    """Loaded once: threads can't."""
    work = packed.stages[0].work
    assert isinstance(work, CacheWork)
    return load_model(work.model, "cpu")
