"""Damage is found, and named by array, shard, rows and file; only what is damaged is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from arrays import ABOUT, CHUNK, SHARD, SHARDS, D, plan, put, record, tree, written

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import ActivationReader, finish
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import read_entries, withdraw


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def damages(folder: Path) -> list[str]:
    reader = ActivationReader(folder).table
    return [str(damage) for s in sorted(reader.commits) for damage in reader.damages(s)]


def test_an_undamaged_array_has_no_damage(tmp_path: Path) -> None:
    assert damages(written(tmp_path, "int8")) == []


@pytest.mark.parametrize(
    ("column", "s", "rows"),
    [("acts", 1, "24 to 47"), ("scales", 0, "0 to 23"), ("mask", 3, "72 to 89")],
)
def test_damage_names_array_shard_rows_and_file(
    tmp_path: Path, column: str, s: int, rows: str
) -> None:
    written(tmp_path, "int8")
    array = tmp_path / "activations.zarr" / column
    path = next(array.glob(f"c.{s}*"))
    whole = path.read_bytes()
    named = f"array activations.zarr/{column}, shard {s} (rows {rows}): {path} "
    for at in (0, len(whole) // 2, len(whole) - 1):
        flip(path, at)
        assert damages(tmp_path) == [named + "does not match its checksum"]
        path.write_bytes(whole)
    path.write_bytes(whole[:-1])
    assert damages(tmp_path) == [named + f"holds {len(whole) - 1:,} bytes, not {len(whole):,}"]
    path.write_bytes(whole + b"x")
    assert damages(tmp_path) == [named + f"holds {len(whole) + 1:,} bytes, not {len(whole):,}"]
    path.unlink()
    assert damages(tmp_path) == [named + "is missing"]


def test_reading_a_cut_or_missing_file_is_an_error_and_no_crash(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "activations.zarr" / "acts" / "c.1.0"
    named = r"array activations\.zarr/acts, shard 1 \(rows 24 to 47\): .*c\.1\.0 is missing or cut"
    path.write_bytes(path.read_bytes()[: CHUNK * D * 2 + 5])
    reader = ActivationReader(tmp_path)
    reader.chunk(3)
    with pytest.raises(StoreError, match=named) as raised:
        reader.chunk(4)
    assert f"holds {CHUNK * D * 2 + 5} bytes, {2 * CHUNK * D * 2} were to be there" in str(
        raised.value
    )
    path.unlink()
    with pytest.raises(StoreError, match=named):
        reader.chunk(3)
    with pytest.raises(StoreError, match=r"1 committed shards are gone, the first is c\.1\.0") as e:
        Recorder(tmp_path, plan(), ABOUT)
    assert "saectl verify --repair" in str(e.value)


def test_what_is_withdrawn_is_made_anew_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    written(tmp_path)
    before = tree(tmp_path)
    acts = tmp_path / "activations.zarr" / "acts"
    flip(acts / "c.0.0", 100)
    (acts / "c.2.0").unlink()
    untouched = [p for s in "13" for p in (tmp_path / "activations.zarr").glob(f"*/c.{s}*")]
    stamps = [(p.stat().st_ino, p.stat().st_mtime_ns) for p in untouched]
    reader = ActivationReader(tmp_path).table
    found = [damage for s in range(SHARDS) for damage in reader.damages(s)]
    withdraw(LocalFiles(tmp_path), [(damage.table, damage.shard) for damage in found])
    with Recorder(tmp_path, plan(), ABOUT) as recorder:
        assert recorder.missing == [0, 2]
        assert ActivationReader(tmp_path).n_rows == 24 + 18  # a reader meanwhile sees the others
        put(recorder)
    finish(tmp_path)
    assert tree(tmp_path) == before and damages(tmp_path) == []
    assert [(p.stat().st_ino, p.stat().st_mtime_ns) for p in untouched] == stamps


def test_a_torn_line_and_all_behind_it_are_no_commits(tmp_path: Path) -> None:
    written(tmp_path / "whole")
    with Recorder(tmp_path / "torn", plan(), ABOUT) as recorder:
        for s in range(3):  # in this order
            put(recorder, first=s * SHARD, stop=(s + 1) * SHARD)
    log = tmp_path / "torn" / "commits" / "000000-000004.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    flip(log, len(lines[0]) + 20)
    assert [e["k"] for e in read_entries(LocalFiles(tmp_path / "torn"))] == [0]
    assert ActivationReader(tmp_path / "torn").n_rows == SHARD
    record(tmp_path / "torn")
    finish(tmp_path / "torn")
    assert tree(tmp_path / "torn") == tree(tmp_path / "whole")


def test_a_finished_array_whose_log_was_cut_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    written(tmp_path)
    before = tree(tmp_path)
    done = tmp_path / "done.json"
    done.write_text("{}")  # as its stage leaves it
    log = tmp_path / "commits.jsonl"
    log.write_bytes(log.read_bytes()[:-3])
    with pytest.raises(
        StoreError, match="only 3 of 4 shards are committed: the commit log is"
    ) as e:
        ActivationReader(tmp_path)
    assert "saectl verify --repair" in str(e.value)
    done.unlink()
    record(tmp_path)  # a writer mends it
    finish(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("column", ["acts", "mask", "statistics"])
@pytest.mark.parametrize("left", [b"", b'{"shape": [90', b"[1]", b'{"node_type": "array"}'])
def test_damaged_metadata_is_named_and_never_guessed(
    tmp_path: Path, column: str, left: bytes
) -> None:
    written(tmp_path)
    path = tmp_path / "activations.zarr" / column / "zarr.json"
    path.write_bytes(left)
    with pytest.raises(StoreError, match=f"{column}/zarr.json does not declare an array as saectl"):
        ActivationReader(tmp_path)
    with pytest.raises(
        StoreError, match=rf"{column}/zarr\.json (is damaged|was written by another)"
    ):
        Recorder(tmp_path, plan(), ABOUT)


@pytest.mark.parametrize("left", [b"", b"{}", b"[1]", b'{"attributes": {"saectl": 3}}'])
def test_a_damaged_group_is_named(tmp_path: Path, left: bytes) -> None:
    written(tmp_path)
    path = tmp_path / "activations.zarr" / "zarr.json"
    path.write_bytes(left)
    for open_ in (ActivationReader, lambda folder: Recorder(folder, plan(), ABOUT)):
        with pytest.raises(StoreError, match=r"activations\.zarr/zarr\.json is damaged"):
            open_(tmp_path)


def test_an_array_of_another_version_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "activations.zarr" / "zarr.json"
    text = path.read_text()
    path.write_text(text.replace('"encoding": "bfloat16"', '"encoding": "int3"'))
    with pytest.raises(StoreError, match=r"encoding .int3. .* is not one this version reads"):
        ActivationReader(tmp_path)
    path.write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(StoreError, match=r"\(format 3\) is not one this version reads"):
        ActivationReader(tmp_path)


def test_a_foreign_commit_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    record(tmp_path / "other", shard=8)
    for line in (tmp_path / "other" / "commits").iterdir():
        (tmp_path / "commits.jsonl").write_bytes(line.read_bytes())
    with pytest.raises(StoreError, match="the commit of shard 0 of activations does not fit"):
        ActivationReader(tmp_path)
    with pytest.raises(StoreError, match=r"commit log of .* was written by another plan") as raised:
        Recorder(tmp_path, plan(), ABOUT)
    assert "8 rows" in raised.value.what


def test_who_has_a_shard_mapped_keeps_it_while_it_is_made_anew(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "activations.zarr" / "acts" / "c.0.0"
    inode, chunk = path.stat().st_ino, ActivationReader(tmp_path).chunk(0)
    before = chunk.clone()
    withdraw(LocalFiles(tmp_path), [("activations", 0)])
    record(tmp_path)
    assert path.stat().st_ino != inode and chunk.equal(before)
