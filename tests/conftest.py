"""What tests of several folders share: the command line in this process, and golden files.

Golden files are what users read and what keys are made of. `pytest --update-golden` writes them
anew; read the difference before you commit it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings


def pytest_configure() -> None:
    settings.register_profile("seeded", derandomize=True, deadline=None)
    settings.load_profile("seeded")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files anew instead"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(file, text)`: the text is what the file holds, to the byte."""

    def same(file: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            file.write_text(text, encoding="utf-8")
        assert file.is_file(), f"no {file.name}: run pytest --update-golden and read what it writes"
        assert text == file.read_text(encoding="utf-8")

    return same


@pytest.fixture
def clean_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without model caches and workspace settings; returns its HF_HOME."""
    for name in ("SAECTL_STORE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home" / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "home" / "hf"


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def saectl(capsys: pytest.CaptureFixture[str], clean_home: Path) -> Callable[..., Answer]:
    """`saectl("plan", file)`: the command line, run in this process."""
    from sae_cli.cli.app import _run

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = _run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return run
