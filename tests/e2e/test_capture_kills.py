"""Captures that are killed many times end with the bytes of one that nobody disturbed: alone,
several processes sharing the parts, and into a bucket whose server is killed as well.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sae_cli.store.activations import ActivationReader

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SETTINGS = (
    "data.tokens=262_144",
    "data.heldout_tokens=4096",
    "matrix.site=[mlp_out]",
    "matrix.layer=[1, 2]",
    "cache.chunk_bytes=131_072",
    "cache.shard_bytes=524_288",
    "cache.part_tokens=32_768",
)


@pytest.fixture(scope="module")
def words(small: Path) -> list[str]:
    """A capture of two arrays, each of 64 shards in 8 parts."""
    return [str(small), *(word for s in SETTINGS for word in ("--set", s)), "-q"]


@pytest.fixture(scope="module")
def undisturbed(
    command: Any, disk: Any, words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What a capture leaves that nobody disturbs, in one part."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    command(store)("cache", *words, "--set", "cache.part_tokens=1_000_000")
    return disk(store)


@pytest.fixture
def packed(saectl: Any, undisturbed: Any) -> Any:
    """The command in a workspace that has the tokens and nothing else."""
    shutil.copytree(undisturbed.root / "tokens", saectl.store / "tokens")
    return saectl


def hunted(saectl: Any, kills: int, writers: int, words: list[str], **env: str) -> int:
    """Runs killing.py; returns how many kills hit a process at work."""
    done = subprocess.run(
        [sys.executable, str(HERE / "killing.py"), str(kills), str(writers), "26", *words],
        env=saectl.env | env,
        text=True,
        capture_output=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.split()[-1])


def rows(disk: Any) -> dict[str, list[str]]:
    """A digest of each chunk of each array, as a reader sees it: none lost, none doubled."""
    found = {}
    for stage in disk.stages("cache"):
        reader = ActivationReader(stage)
        assert reader.complete and reader.planned_rows == 262_144
        chunks = ({**reader.raw(k), "mask": reader.reasons(k)} for k in range(reader.n_chunks))
        found[stage.name] = [
            hashlib.sha256(b"".join(c[n].tobytes() for n in sorted(c))).hexdigest() for c in chunks
        ]
    return found


def watched(store: Path, over: threading.Event, seen: list[int]) -> None:
    """Reads along: every shard that is committed is whole, at any moment."""
    while not over.is_set():
        for stage in store.glob("cache/*"):
            try:
                reader = ActivationReader(stage)
            except Exception:  # noqa: BLE001  not begun yet
                continue
            for s in reader.table.commits:
                assert list(reader.table.damages(s)) == []
                seen.append(s)
        time.sleep(0.05)


@pytest.mark.parametrize(("kills", "writers"), [(16, 1), (24, 3)])
def test_captures_that_are_killed_end_with_the_same_bytes(
    packed: Any, disk: Any, words: list[str], undisturbed: Any, kills: int, writers: int
) -> None:
    over, seen = threading.Event(), []
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            watched(packed.store, over, seen)
        except BaseException as e:  # noqa: BLE001
            failures.append(e)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        landed = hunted(packed, kills, writers, words)
    finally:
        over.set()
        watcher.join()
    assert not failures, failures
    assert seen, "the reader never saw a shard"
    assert landed >= kills // 3, f"only {landed} of {kills} kills hit a process at work"
    assert disk(packed.store).artefacts() == undisturbed.artefacts()
    assert disk(packed.store).results() == undisturbed.results()
    assert not list(packed.store.glob("cache/*/claim*")), "a claim was left behind"


def test_captures_into_a_bucket_are_the_same_whoever_is_killed(
    packed: Any, disk: Any, words: list[str], undisturbed: Any, s3: Any, s3_url: str
) -> None:
    stop = threading.Event()

    def restart() -> None:
        while not stop.wait(6.0):
            s3.kill()
            s3.start()

    server = threading.Thread(target=restart)
    server.start()
    try:
        into = [*words, "--set", f"cache.store={s3_url}"]
        landed = hunted(packed, 12, 2, into, **s3.environment)
    finally:
        stop.set()
        server.join()
    assert landed >= 3
    for stage in disk(packed.store).stages("cache"):
        assert not (stage / "activations.zarr/acts/c.0.0").exists(), "rows stayed on the disk"
    assert rows(disk(packed.store)) == rows(undisturbed)
    ours, theirs = disk(packed.store).results("cache"), undisturbed.results("cache")
    assert ours == theirs
