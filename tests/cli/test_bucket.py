"""`verify`, `--repair` and `gc` of activations that lie in a bucket, on a real S3 server."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sae_cli.cli.output import GcOutput, VerifyOutput
from sae_cli.errors import FAILED, OK
from sae_cli.store.buckets.files import ObjectFiles
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.evict import delete_remote

SPEC = """\
name: away
model: tiny
data: {tokens: 4096, heldout_tokens: 1024, context: 64}
cache: {batch_tokens: 2048, chunk_bytes: 65_536, shard_bytes: 140_000, part_tokens: 2048}
train: {width: 64, num_tokens: 2048, batch_size: 512, shuffle_tokens: 2048}
matrix: {layer: [1], k: [8]}
"""


@pytest.fixture
def away(tmp_path, monkeypatch, saectl, s3_url):
    """The folder of a stage whose array lies in a bucket, and that bucket's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAECTL_PATIENCE", "20")
    Path("away.yaml").write_text(SPEC)
    answer = saectl("cache", "away.yaml", "-q", "--set", f"cache.store={s3_url}")
    assert answer.code == OK, answer.err
    (place,) = Workspace(Path("store")).stages("cache")
    return place, ObjectFiles(f"{s3_url}/cache/{place.path.name}")


def objects(files):
    """Every object of the stage, with its digest."""
    return {
        name: hashlib.sha256(files.get(name) or b"").hexdigest() for name in files._bucket.tree("")
    }


def flip(files, name):
    data = bytearray(files.get(name))
    data[len(data) // 2] ^= 1
    files.put(name, data)


def verdict(saectl, *words):
    answer = saectl("verify", "--only", "cache", "--json", *words)
    (line,) = VerifyOutput.model_validate_json(answer.out).stages
    return answer.code, line


def test_a_damaged_object_is_named_and_captured_again(saectl, away):
    _, files = away
    before = objects(files)
    assert verdict(saectl)[0] == OK
    flip(files, "activations.zarr/acts/c.2.0")
    files.delete("activations.zarr/mask/c.3")
    code, line = verdict(saectl)
    assert code == FAILED
    assert [(d.array, d.shard) for d in line.damages] == [
        ("activations.zarr/acts", 2),
        ("activations.zarr/mask", 3),
    ]
    assert line.damages[0].file.startswith("s3://bucket/")
    code, line = verdict(saectl, "--repair")
    assert (code, line.why) == (OK, "2 shards captured again: same bytes")
    assert objects(files) == before


@pytest.mark.parametrize("name", ["commits.jsonl", "activations.zarr/zarr.json"])
def test_of_two_copies_of_a_record_the_sound_one_is_put_back(saectl, away, name):
    place, files = away
    before, done = objects(files), place.done.read_bytes()
    flip(files, name)
    assert verdict(saectl)[0] == FAILED
    code, line = verdict(saectl, "--repair")
    assert (code, line.why) == (OK, "records put back from their copies: same bytes")
    (place.path / name).write_bytes(b"{}")
    assert verdict(saectl, "--repair")[0] == OK
    assert objects(files) == before and place.done.read_bytes() == done


def test_an_outage_is_no_damage(saectl, away, s3, monkeypatch):
    place, _ = away
    monkeypatch.setenv("SAECTL_PATIENCE", "0.5")
    s3.kill()
    answer = saectl("verify", "--only", "cache", "--repair")
    assert answer.code == FAILED and "s3://bucket/" in answer.err and answer.out == ""
    s3.start()
    assert place.done.is_file() and verdict(saectl)[0] == OK


def test_gc_frees_the_bucket_and_says_how_much(saectl, away):
    place, files = away
    held = sum(files.size(n) or 0 for n in objects(files) if "/c." in n)
    assert saectl("train", "away.yaml", "-q").code == OK
    would = GcOutput.model_validate_json(saectl("gc", "--json").out)
    assert would.stages[0].url == f"{files.where()}" and would.bytes >= held
    assert objects(files)
    freed = GcOutput.model_validate_json(saectl("gc", "--yes", "--json").out)
    assert freed.bytes == would.bytes
    assert objects(files) == {}
    assert place.done.is_file() and place.stats.is_file() and not place.activations.exists()
    assert saectl("gc", "--yes").out == "nothing to free\n"
    assert saectl("verify").code == OK


def test_an_eviction_from_a_bucket_that_was_cut_off_is_finished(away):
    place, files = away
    files.delete("commits.jsonl")  # first, so that nobody reads a log of what is gone
    files.delete("activations.zarr/acts/c.0.0")
    files.delete("activations.zarr/zarr.json")
    assert delete_remote(place) > 0
    assert objects(files) == {}
    assert delete_remote(place) == 0
    assert delete_remote(StageDir(place.path.with_name("none-00000000"))) == 0
