"""`verify` finds every damage and names it; `--repair` undoes it to the byte, and no more than it.

A small sweep of the embedded model is run once; each test damages a copy of its workspace.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sae_cli.cli.output import VerifyOutput
from sae_cli.errors import FAILED, OK, USAGE
from sae_cli.store.layout import Workspace

SPEC = """\
name: small
model: tiny
data: {tokens: 8192, heldout_tokens: 1024, context: 64}
cache: {batch_tokens: 2048, chunk_bytes: 65_536, shard_bytes: 140_000, part_tokens: 2048}
train: {width: 64, num_tokens: 2048, batch_size: 512, shuffle_tokens: 2048}
eval: {batch_tokens: 1024}
matrix: {layer: [1], site: [resid_post, mlp_out], k: [8]}
"""
DIARY = {"done.json", "log.txt", "metrics.jsonl"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace in which the sweep ran, and its file. Don't change it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.yaml").write_text(SPEC)
    ended = subprocess.run(
        [sys.executable, "-m", "sae_cli", "run", "small.yaml", "-q"],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == OK, ended.stderr
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch, clean_home):
    """The current folder: a copy of that workspace, without the sweep's file."""
    shutil.copytree(made / "store", tmp_path / "store", symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def stage(kind, contains=""):
    return next(p for p in Workspace(Path("store")).stages(kind) if contains in p.slug)


def digests(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name not in DIARY and "runs" not in p.parts
    }


def identities(folder):
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in sorted(folder.rglob("c.*"))}


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def swap_words(path):
    path.write_text(path.read_text().replace('"c.1.0"', '"c.9.0"').replace("a", "b", 1))


def found(saectl, *words):
    answer = saectl("verify", "--json", *words)
    return answer.code, {
        f"{x.kind}/{x.slug}": x for x in VerifyOutput.model_validate_json(answer.out).stages
    }


def test_a_sound_workspace_is_told_so(saectl, here):
    answer = saectl("verify")
    assert answer.code == OK and "; no damage" in answer.out
    _, stages = found(saectl)
    assert {x.verdict for x in stages.values()} == {"ok"} and len(stages) == 8
    cache = stages["cache/tiny.L1.resid_post"]
    assert (cache.arrays, cache.shards, cache.files) == (3, 8, 6)
    assert cache.bytes == json.loads((stage("cache", "resid").done).read_text())["summary"][
        "bytes"
    ] + sum(
        o["bytes"]
        for o in json.loads((stage("cache", "resid").done).read_text())["outputs"].values()
    )


@pytest.mark.parametrize(
    ("array", "shard", "harm", "said"),
    [
        ("acts", 3, flip, "does not match its checksum"),
        ("acts", 7, cut, "bytes, not"),
        ("mask", 0, os.unlink, "is missing"),
        ("statistics", 5, flip, "does not match its checksum"),
    ],
)
def test_a_damaged_shard_is_named_and_captured_again_alone(saectl, here, array, shard, harm, said):
    before = digests(here / "store")
    place = stage("cache", "resid_post")
    victim = next(place.activations.glob(f"{array}/c.{shard}*"))
    harm(victim)
    others = identities(here / "store" / "cache")
    code, stages = found(saectl)
    assert code == FAILED
    (damage,) = stages["cache/tiny.L1.resid_post"].damages
    assert damage.array == f"activations.zarr/{array}" and damage.shard == shard
    assert (damage.first_row, damage.last_row) == (1024 * shard, 1024 * shard + 1023)
    assert damage.file == str(victim) and said in damage.what
    assert {n for n, x in stages.items() if x.verdict != "ok"} == {"cache/tiny.L1.resid_post"}

    fixed = saectl("verify", "--repair")
    assert fixed.code == OK and "1 shard captured again: same bytes" in fixed.out
    assert digests(here / "store") == before
    now = identities(here / "store" / "cache")
    names = (f"c.{shard}", f"c.{shard}.0")
    rewritten = {p for p in now if now[p] != others.get(p)}
    assert rewritten == {p for p in now if p.name in names and place.path.name in str(p)}
    assert saectl("verify").code == OK


def test_the_lines_of_a_table_name_array_shard_rows_and_file(saectl, here):
    flip(next(stage("cache", "mlp_out").activations.glob("acts/c.2.0")))
    answer = saectl("verify")
    assert answer.code == FAILED
    assert (
        "array activations.zarr/acts, shard 2 (rows 2048 to 3071): store/cache/" in answer.out
        and "; 1 damage\n" in answer.out
        and "saectl verify --repair" in answer.out
    )


def test_a_torn_log_makes_what_stood_behind_it_anew(saectl, here):
    before = digests(here / "store")
    place = stage("cache", "mlp_out")
    lines = place.commits.read_bytes().splitlines(keepends=True)
    flip(place.commits, sum(map(len, lines[:5])) + 30)
    kept = {p: i for p, i in identities(place.path).items() if int(p.name.split(".")[1]) < 5}
    code, stages = found(saectl)
    assert code == FAILED
    said = " ".join(d.what for d in stages["cache/tiny.L1.mlp_out"].damages)
    assert "3 of 8 shards have no line in store/cache/" in said and "is not what" in said
    assert saectl("verify", "--repair", "--only", "cache").code == OK
    assert digests(here / "store") == before
    now = identities(place.path)
    assert {p: now[p] for p in kept} == kept
    assert all(now[p][1] > max(i[1] for i in kept.values()) for p in now if p not in kept)


def test_a_missing_log_makes_all_anew(saectl, here):
    before = digests(here / "store")
    stage("cache", "mlp_out").commits.unlink()
    assert found(saectl)[0] == FAILED
    assert saectl("verify", "--repair").code == OK
    assert digests(here / "store") == before


@pytest.mark.parametrize(
    "names",
    [
        ["stats.safetensors"],
        ["activations.zarr/zarr.json"],
        ["activations.zarr/acts/zarr.json"],
        ["activations.zarr/zarr.json", "activations.zarr/mask/zarr.json"],
        ["done.json"],
        ["stats.safetensors", "activations.zarr/acts/zarr.json", "activations.zarr/acts/c.4.0"],
    ],
)
def test_damaged_records_are_written_again_and_no_sound_shard_is(saectl, here, names):
    before = digests(here / "store")
    place = stage("cache", "resid_post")
    for name in names:
        flip(place.path / name)
    shards = identities(here / "store" / "cache")
    code, stages = found(saectl)
    assert code == FAILED and stages["cache/tiny.L1.resid_post"].verdict == "damaged"
    answer = saectl("verify", "--repair")
    if names == ["done.json"]:
        assert answer.code == FAILED and "nothing to compare with" in answer.out
    else:
        assert answer.code == OK and "same bytes" in answer.out
    assert digests(here / "store") == before
    now = identities(here / "store" / "cache")
    assert {p.name for p in now if now[p] != shards[p]} <= {"c.4.0", "c.4"}
    assert saectl("verify").code == OK


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tokens", "train.zarr/tokens/c.0.0"),
        ("train", "sae_weights.safetensors"),
        ("eval", "metrics.json"),
    ],
)
def test_any_other_stage_is_done_anew_after_saying_so(saectl, here, kind, name):
    before = digests(here / "store")
    place = stage(kind, "" if kind == "tokens" else "mlp_out")
    flip(place.path / name)
    code, stages = found(saectl)
    assert code == FAILED
    assert [n for n, x in stages.items() if x.damages] == [f"{kind}/{place.slug}"]
    answer = saectl("verify", "--repair")
    assert answer.code == OK and "done anew: same bytes" in answer.out
    assert f"{kind}/{place.path.name} is damaged and is done anew" in answer.err
    assert digests(here / "store") == before


def test_other_bits_are_told_with_what_was_made_from_the_old_ones(saectl, here):
    place = stage("cache", "mlp_out")
    record = json.loads(place.done.read_text())
    flip(next(place.activations.glob("acts/c.1.0")))
    from sae_cli.store.records import ledger

    record["outputs"]["stats.safetensors"]["bytes"] += 1  # as another machine would have left it
    record["sha256"] = ledger._digest(record["outputs"])
    place.done.write_text(json.dumps(record))
    answer = saectl("verify", "--repair")
    assert answer.code == FAILED
    assert "gives other bits than the record says" in answer.out
    readers = [stage("train", "mlp_out"), stage("eval", "mlp_out")]
    for reader in readers:
        assert f"{reader.kind}/{reader.path.name}" in answer.out
    assert saectl("verify").code == OK


def test_what_no_sweep_names_is_left_and_the_spec_that_made_it_helps(saectl, here, made):
    shutil.rmtree("store/runs")
    flip(next(stage("cache", "mlp_out").activations.glob("acts/c.1.0")))
    before = digests(here / "store")
    answer = saectl("verify", "--repair")
    assert answer.code == FAILED and "give the SPEC that made it" in answer.out
    assert digests(here / "store") == before
    assert saectl("verify", made / "small.yaml", "--repair").code == OK


def test_a_stage_that_another_process_holds_is_left_alone(saectl, here):
    from sae_cli.store.records.claim import claim

    place = stage("cache", "mlp_out")
    flip(next(place.activations.glob("acts/c.1.0")))
    before = digests(here / "store")
    with claim(place, "000000-000002"):
        answer = saectl("verify", "--repair")
    assert answer.code == FAILED
    assert "not repaired" in answer.out and "is claimed by" in answer.out
    assert {n: d for n, d in digests(here / "store").items() if "claim" not in n} == {
        n: d for n, d in before.items() if "claim" not in n
    }


@pytest.mark.parametrize("when", ["withdrawn", "undone"])
def test_a_repair_that_was_killed_is_seen_to_its_end_by_the_next(saectl, here, when):
    before = digests(here / "store")
    place = stage("cache", "resid_post")
    for k in (0, 3, 6):
        flip(next(place.activations.glob(f"acts/c.{k}.0")))
    process = subprocess.Popen(
        [sys.executable, "-m", "sae_cli", "verify", "--repair"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    gone = place.stats if when == "withdrawn" else place.done
    deadline = time.monotonic() + 300
    while gone.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not place.done.exists() or when == "withdrawn"
    answer = saectl("verify", "--repair")
    assert answer.code == OK and "same bytes" in answer.out
    assert digests(here / "store") == before
    assert not (place.path / "repair.json").exists()


def test_the_outlier_limit_that_was_found_once_is_kept(saectl, here, monkeypatch):
    before = digests(here / "store")
    place = stage("cache", "mlp_out")
    flip(place.activations / "zarr.json")
    flip(place.activations / "mask" / "zarr.json")
    from sae_cli.stages import arrays

    def other(_, new, *__):  # as another machine might find it
        return [0.5 for _ in new]

    monkeypatch.setattr(arrays, "outlier_limits", other)
    answer = saectl("verify", "--repair")
    assert answer.code == OK and "same bytes" in answer.out
    assert digests(here / "store") == before


def test_freed_activations_are_passed_over(saectl, here):
    assert saectl("gc", "--yes").code == OK
    answer = saectl("verify", "--only", "cache")
    assert answer.code == OK and answer.out.count("its data was freed") == 2


def test_a_half_written_array_is_checked_as_far_as_it_is_committed(saectl, here):
    before = digests(here / "store")
    place = stage("cache", "mlp_out")
    lines = place.commits.read_bytes().splitlines(keepends=True)
    place.commits.write_bytes(b"".join(lines[:4]))
    place.done.unlink()
    place.stats.unlink()
    code, stages = found(saectl, "--only", "cache/tiny.L1.mlp_out")
    assert code == OK and stages["cache/tiny.L1.mlp_out"].shards == 4
    flip(next(place.activations.glob("acts/c.2.0")))
    flip(next(place.activations.glob("acts/c.6.0")))
    code, stages = found(saectl, "--only", "*mlp_out", "--threads", "1")
    (damage,) = stages["cache/tiny.L1.mlp_out"].damages
    assert (code, damage.shard) == (FAILED, 2)
    done = identities(place.path)
    answer = saectl("verify", "--repair", "--only", "*mlp_out")
    assert answer.code == OK and not place.done.exists()
    assert "1 shard withdrawn; it is unfinished: saectl cache SPEC --only" in answer.out
    assert identities(place.path) == done and not (place.path / "repair.json").exists()
    code, stages = found(saectl, "--only", "cache/tiny.L1.mlp_out")
    assert code == OK and stages["cache/tiny.L1.mlp_out"].shards == 3
    assert saectl("cache", "--only", place.key, "-q").code == OK
    assert digests(here / "store") == before


def test_globs_choose_and_one_that_matches_nothing_is_bad_usage(saectl, here, made):
    assert set(found(saectl, "--only", "train")[1]) == {
        f"train/tiny.L1.{site}.topk.w64.k8" for site in ("resid_post", "mlp_out")
    }
    for words in ((), (made / "small.yaml",)):
        answer = saectl("verify", *words, "--only", "cahce")
        assert answer.code == USAGE and "did you mean 'cache'?" in answer.err


def test_an_empty_workspace_has_nothing_to_verify(saectl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = saectl("verify")
    assert (answer.code, answer.out) == (OK, "store: nothing there yet\n")
