"""Benches that tests of studies share. Don't change them; `dataclasses.replace` gives others."""

from __future__ import annotations

import pytest
from studying import QUICK, Studied

from sae_cli.studies.bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With an SAE that has hardly begun to learn."""
    return Studied(tmp_path_factory.mktemp("quick"), *QUICK).bench()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With an SAE that has learned."""
    return Studied(tmp_path_factory.mktemp("trained")).bench()
