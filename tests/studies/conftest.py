"""Benches that tests of studies share. Don't change them; `dataclasses.replace` gives others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from studying import QUICK, Studied

from sae_cli.studies.bench import Bench


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are faster without a thread pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With an SAE that has hardly begun to learn."""
    return Studied(tmp_path_factory.mktemp("quick"), *QUICK).bench()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With an SAE that has learned."""
    return Studied(tmp_path_factory.mktemp("trained")).bench()
