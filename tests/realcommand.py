"""The real command in a subprocess, and what it leaves on disk, for tests from end to end."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SMALL = Path(__file__).parent / "e2e" / "small.yaml"
KINDS = ("tokens", "cache", "train", "eval", "release")
PATIENCE = 900.0
"""Seconds after which a command counts as hanging."""
DIARY = {"done.json", "log.txt", "metrics.jsonl", ".claim.lock"}
"""Files of a stage that carry times, so differ from run to run."""
_SET_ASIDE = ("HF_", "HUGGING", "WANDB_", "SAECTL_", "TRANSFORMERS_", "PYTHON", "COLUMNS")


class Saectl:
    """Runs `saectl` in a workspace of its own. Every call is checked for its exit code."""

    def __init__(self, store: Path, home: Path) -> None:
        self.store = store
        self._program = str(Path(sysconfig.get_path("scripts")) / "saectl")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_SET_ASIDE)}
        self.env = kept | {
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "SAECTL_STORE": str(store),
        }

    def __call__(
        self, *words: str | Path, code: int = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end. Fails on another exit code than `code`, and on any traceback."""
        done = subprocess.run(
            [self._program, *map(str, words)],
            env=self.env | (env or {}),
            text=True,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        said = f"saectl {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, f"exit {done.returncode}, not {code}: {said}"
        assert "Traceback" not in done.stdout + done.stderr, said
        return done

    def json(self, *words: str | Path, code: int = 0) -> Any:
        """Run it with `--json`: stdout is one JSON document, and stderr says nothing."""
        done = self(*words, "--json", code=code)
        assert code or not done.stderr, done.stderr
        return json.loads(done.stdout)

    def sweep(self, *words: str | Path, code: int = 0) -> Any:
        """As `json`, of a command that speaks of exactly one sweep."""
        said = self.json(*words, code=code)
        assert said["version"] == 1
        (one,) = said["sweeps"]
        return one

    def start(self, *words: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start it, with stdout and stderr in one pipe."""
        return subprocess.Popen(
            [self._program, *map(str, words)],
            env=self.env | (env or {}),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


class Disk:
    """What a workspace holds."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stages(self, kind: str = "*") -> list[Path]:
        """The stage folders of a kind, or of all."""
        kinds = KINDS if kind == "*" else (kind,)
        return sorted(p for k in kinds for p in self.root.glob(f"{k}/*") if p.is_dir())

    def done(self, kind: str = "*") -> dict[str, Any]:
        """done.json of each finished stage, by `kind/name`."""
        return {
            f"{p.parent.name}/{p.name}": json.loads((p / "done.json").read_text())
            for p in self.stages(kind)
            if (p / "done.json").is_file()
        }

    def results(self, kind: str = "*") -> dict[str, Any]:
        """Digests and summaries of the finished stages: what may not depend on how they ran."""
        return {n: (d["outputs"], d["summary"]) for n, d in self.done(kind).items()}

    def artefacts(self, kind: str = "*") -> dict[str, str]:
        """sha256 of every file of every stage, except those that carry times."""
        return {
            str(f.relative_to(self.root)): hashlib.sha256(f.read_bytes()).hexdigest()
            for stage in self.stages(kind)
            for f in sorted(stage.rglob("*"))
            if f.is_file() and f.name not in DIARY
        }

    def curves(self) -> dict[str, list[dict[str, float]]]:
        """The training curves, without times."""
        found = {}
        for stage in self.stages("train"):
            lines = map(json.loads, (stage / "metrics.jsonl").read_text().splitlines())
            found[stage.name] = [
                {k: v for k, v in line.items() if k not in ("time", "seconds", "waiting")}
                for line in lines
            ]
        return found

    def verify(self, *kinds: str) -> None:
        """Every recorded output (of some kinds, or all) is there, with its digest and size."""
        for name, record in self.done().items():
            if kinds and name.split("/")[0] not in kinds:
                continue
            for relative, output in record["outputs"].items():
                data = (self.root / name / relative).read_bytes()
                assert len(data) == output["bytes"], (name, relative)
                assert hashlib.sha256(data).hexdigest() == output["sha256"], (name, relative)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home folder: no hub cache, no settings."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def command(home: Path) -> Callable[[Path], Saectl]:
    """command(store): the command in that workspace."""
    return lambda store: Saectl(store, home)


@pytest.fixture
def saectl(command: Callable[[Path], Saectl], tmp_path: Path) -> Saectl:
    """The command in an empty workspace."""
    return command(tmp_path / "store")


@pytest.fixture(scope="session")
def small() -> Path:
    """The sweep file of these tests."""
    return SMALL


@pytest.fixture(scope="session")
def disk() -> Callable[[Path], Disk]:
    """disk(store): what that workspace holds."""
    return Disk


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object]], None]:
    """until(what): polls until `what()` is true; fails after a long time."""

    def wait(what: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.002)

    return wait


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes put into this list don't outlive the test."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        if process.poll() is None:
            process.kill()
        process.communicate()
