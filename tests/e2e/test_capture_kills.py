"""Captures that are killed many times end with the bytes of one that nobody disturbed: alone,
several processes sharing the parts, and into a bucket whose server is killed as well.

Only kills that hit a process in the middle of a part count (`hunting` says how that is known), and
a reader beside them hashes every shard that appears.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hunting import Forks, Hunt
from onlooker import Onlooker, digests

from sae_cli.store.buckets.client import Bucket

pytestmark = pytest.mark.slow

ALONE, SHARED, BUCKET = 16, 20, 14
assert ALONE + SHARED + BUCKET >= 50
SETTINGS = (
    "data.tokens=262_144",
    "data.heldout_tokens=4096",
    "matrix.site=[mlp_out]",
    "matrix.layer=[1, 2]",
    "cache.batch_tokens=768",  # shards are begun and ended in the middle of a forward
    "cache.chunk_bytes=131_072",
    "cache.shard_bytes=524_288",
    "cache.part_tokens=32_768",
)
Hunted = Callable[..., Any]


@pytest.fixture(scope="module")
def words(small: Path) -> list[str]:
    """A capture of two arrays, each of 128 shards in 8 parts."""
    return [str(small), *(word for s in SETTINGS for word in ("--set", s)), "-q"]


@pytest.fixture(scope="module")
def undisturbed(
    command: Any, disk: Any, words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What a capture leaves that nobody disturbs, in one part."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    command(store)("cache", *words, "--set", "cache.part_tokens=1_000_000")
    return disk(store)


@pytest.fixture(scope="module")
def due(undisturbed: Any) -> dict[str, list[str]]:
    """The digest of each chunk of each array."""
    return {stage.name: digests(stage) for stage in undisturbed.stages("cache")}


@pytest.fixture
def hunted(
    saectl: Any,
    undisturbed: Any,
    due: dict[str, list[str]],
    words: list[str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Hunted:
    """hunted(kills, writers, spare, *more words): kills and lets the rest finish, beside a reader,
    in a workspace that has the tokens and nothing else; what came of it."""
    shutil.copytree(undisturbed.root / "tokens", saectl.store / "tokens")

    def run(kills: int, writers: int, spare: int, *more: str, **env: str) -> tuple[Hunt, Onlooker]:
        forks = Forks([*words, *more], saectl.env | env, tmp_path / "said.txt")
        dice = random.Random(f"{kills} of {writers}")
        hunt = Hunt(saectl.store, forks, writers, spare, dice)
        with Onlooker(saectl.store, due) as onlooker, forks:
            hunt.kill(kills)
            shards = sum(map(len, onlooker.seen.values()))
            hunt.finish()
        told = f"{hunt.told()}; a reader hashed {onlooker.hashed} shards, {shards} new ones"
        record_property("told", told)
        return hunt, onlooker

    return run


@pytest.mark.parametrize(
    ("kills", "writers", "spare"), [(ALONE, 1, 10), (SHARED, 3, 6)], ids=["alone", "shared"]
)
def test_captures_that_are_killed_end_with_the_same_bytes(
    saectl: Any, disk: Any, undisturbed: Any, hunted: Hunted, kills: int, writers: int, spare: int
) -> None:
    hunt, onlooker = hunted(kills, writers, spare)
    assert hunt.landed == kills and hunt.half > 0, hunt.told()
    assert hunt.company > 0 or writers == 1, hunt.told()
    assert onlooker.hashed > 100 and all(onlooker.seen.values()), "the reader saw too little"
    assert disk(saectl.store).artefacts() == undisturbed.artefacts()
    assert disk(saectl.store).results() == undisturbed.results()
    assert not list(saectl.store.glob("cache/*/claim*")), "a claim was left behind"


@contextmanager
def falling(s3: Any, every: float) -> Iterator[list[float]]:
    """The server is killed every so many seconds, and comes back."""
    stop, falls = threading.Event(), list[float]()

    def restart() -> None:
        while not stop.wait(every):
            s3.kill()
            s3.start()
            falls.append(every)

    server = threading.Thread(target=restart)
    server.start()
    try:
        yield falls
    finally:
        stop.set()
        server.join()


def objects(url: str) -> dict[str, str]:
    """sha256 of every object below a url, but for the mark of the workspace that owns them."""
    bucket = Bucket(url)
    names = (name for name in bucket.tree("") if not name.endswith("owner.json"))
    return {name: sha256(bucket.get(name) or b"").hexdigest() for name in names}


def data(stage: Path) -> dict[str, str]:
    """sha256 of what a bucket should hold of a stage."""
    files = [stage / "commits.jsonl", *(stage / "activations.zarr").rglob("*")]
    return {
        str(file.relative_to(stage)): sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def test_captures_into_a_bucket_are_the_same_whoever_is_killed(
    saectl: Any,
    disk: Any,
    undisturbed: Any,
    hunted: Hunted,
    s3: Any,
    s3_url: str,
) -> None:
    with falling(s3, 6.0) as falls:
        hunt, onlooker = hunted(BUCKET, 2, 8, "--set", f"cache.store={s3_url}", **s3.environment)
    assert hunt.landed == BUCKET and hunt.company > 0 and len(falls) > 1, hunt.told()
    assert onlooker.hashed > 100 and all(onlooker.seen.values()), "the reader saw too little"
    for stage in undisturbed.stages("cache"):
        here = saectl.store / "cache" / stage.name
        assert not (here / "activations.zarr/acts/c.0.0").exists(), "rows stayed on the disk"
        assert objects(f"{s3_url}/cache/{stage.name}") == data(stage)
    assert disk(saectl.store).results("cache") == undisturbed.results("cache")
    assert not list(saectl.store.glob("cache/*/claim*")), "a claim was left behind"
