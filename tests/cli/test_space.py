"""Room: what plan tells of it, what a quota refuses, what gc frees; what int8 costs; who works."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from sae_cli.cli.output import GcOutput, PlanOutput, ValidateOutput
from sae_cli.cli.session import open_sweeps
from sae_cli.errors import FAILED, OK, USAGE
from sae_cli.plan.place import folder, record_of
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import open_stage, record_done
from sae_cli.store.tables import journal
from sae_cli.store.tables.chunks import Column, Table
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.writer import TableWriter


@pytest.fixture
def with_sets(small):
    def make(*sets):
        (opened,) = open_sweeps(small.spec, None, sets, small.workspace, online=False)
        return opened.graph

    return make


def half_captured(place):
    """An array of which one of four shards is committed."""
    files = LocalFiles(place.path)
    table = Table("activations", 64, 16, 16, (Column("acts", "<f4", (4,), ("dim",)),))
    with TableWriter(files, [table], journal.open_part(files, range(2))) as writer:
        writer.write("activations", 0, {"acts": np.zeros((16, 4), "<f4")}, {"kept": [16]})


def room_line(out):
    return next(line for line in out.splitlines() if line.startswith("7 run; "))


def test_a_plan_tells_what_it_writes_and_what_is_free(saectl, small, monkeypatch):
    monkeypatch.setattr("sae_cli.plan.room.free_bytes", lambda _: 10**15)
    assert room_line(saectl("plan", "small.yaml").out).endswith(" to write; 1e+03 TB free")
    said = saectl("plan", "small.yaml", "--set", "quota=1 kB", "--json").out
    (plan,) = PlanOutput.model_validate_json(said).sweeps
    assert plan.room is not None and plan.room.quota == 1000 and plan.room.used == 0
    told = saectl("plan", "small.yaml", "--set", "quota=1 kB")
    assert told.code == OK and "warning: does not fit the quota of 1 kB: 0 B used" in told.out
    remote = saectl("plan", "small.yaml", "--set", "cache.store=s3://bucket/x").out
    assert " to a bucket; " in room_line(remote)


def test_plan_tells_how_many_passes_train_the_saes_and_in_how_much_memory(saectl, small):
    told = saectl("plan", "small.yaml").out
    line = r"(\d+) SAEs? to train in (\d+) pass(?:es)? over .*; ([\d.]+) MB of memory"
    found = re.search(line, told)
    assert found is not None, told
    saes = [line for line in told.splitlines() if line.startswith("train ")]
    assert int(found[1]) == len(saes) >= int(found[2]) >= 1 and float(found[3]) > 1


def test_a_run_beyond_its_quota_fails_the_stage_and_says_what_uses_the_room(saectl, small):
    answer = saectl("run", "small.yaml", "--set", "quota=1 kB", "-q")
    assert answer.code == FAILED
    assert "of the quota of 1 kB the stages of small use" in answer.err
    assert "saectl gc" in answer.err
    (tokens,) = small.graph.of("tokens")
    assert not folder(small.workspace, tokens).done.exists()


def test_int8_says_its_price_before_and_after_it_is_measured(saectl, small, with_sets):
    sets = ("--set", "cache.dtype=int8")
    said = saectl("plan", "small.yaml", *sets).out
    assert "int8 takes about half the bytes of bfloat16" in said
    graph = with_sets("cache.dtype=int8")
    (cache,) = graph.of("cache")
    place = folder(small.workspace, cache)
    with claim(place) as held:
        open_stage(place, record_of(cache))
        (place.path / "data").write_bytes(b"x")
        record_done(held, [place.path / "data"], {"fvu_loss": 0.000131}, 2.0)
    assert "took 2s, int8 (FVU loss 0.013 %)" in saectl("status", "small.yaml", *sets).out
    out = saectl("status", "small.yaml", *sets, "--json").out
    (plan,) = PlanOutput.model_validate_json(out).sweeps
    (line,) = [s for s in plan.stages if s.kind == "cache"]
    assert (line.dtype, line.fvu_loss) == ("int8", 0.000131)
    assert "half the bytes" not in saectl("plan", "small.yaml", *sets).out


def test_status_shows_how_far_an_array_is_and_who_is_at_it(saectl, small):
    small.finish("tokens")
    (cache,) = small.graph.of("cache")
    place = folder(small.workspace, cache)
    open_stage(place, record_of(cache))
    half_captured(place)
    assert "16/64 rows, bfloat16" in saectl("status", "small.yaml").out
    with claim(place, "000000-000002"), claim(place, "000002-000004"):
        said = saectl("status", "small.yaml").out
        (plan,) = PlanOutput.model_validate_json(
            saectl("status", "small.yaml", "--json").out
        ).sweeps
        other = place.part_claim("000002-000004")
        holder = json.loads(other.read_text())
        other.write_text(json.dumps({**holder, "host": "elsewhere"}))
        two = saectl("status", "small.yaml").out
        other.write_text(json.dumps(holder))
    assert "16/64 rows, bfloat16  on " in said
    (line,) = [s for s in plan.stages if s.kind == "cache"]
    assert (line.rows, line.planned_rows, line.workers) == (16, 64, 1)
    assert "16/64 rows, bfloat16  2 processes, the latest heard of just now" in two


def test_gc_as_json_is_its_model_and_only_looks(saectl, small):
    small.finish("tokens", "cache", "train")
    place = folder(small.workspace, small.graph.of("cache")[0])
    would = GcOutput.model_validate_json(saectl("gc", "--json").out)
    assert (would.freed, would.bytes, len(would.stages)) == (False, 800, 1)
    assert would.stages[0].key == place.key and would.stages[0].named
    assert place.activations.exists()
    freed = GcOutput.model_validate_json(saectl("gc", "--json", "--yes").out)
    assert (freed.freed, freed.bytes) == (True, 800) and not place.activations.exists()
    assert GcOutput.model_validate_json(saectl("gc", "--json").out).stages == ()


def test_validate_as_json_is_its_model(saectl, small):
    good = saectl("validate", "small.yaml", "--json")
    said = ValidateOutput.model_validate_json(good.out)
    assert (good.code, said.ok, said.sweep, said.saes) == (OK, True, "small", 2)
    bad = saectl("validate", "small.yaml", "--json", "--set", "quota=lots")
    told = ValidateOutput.model_validate_json(bad.out)
    assert (bad.code, bad.err, told.ok) == (USAGE, "", False)
    assert told.error is not None and "'lots' is not a size" in told.error
