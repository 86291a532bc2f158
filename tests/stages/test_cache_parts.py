"""Processes that share a capture: parts of any size, taken together, begun in one order."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from captures import SHARDS, Holding, Small, begun, small
from transformers import PreTrainedModel

from sae_cli.errors import Blocked, Interrupted
from sae_cli.stages import cache
from sae_cli.stages.arrays import DECLARING, claimed
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import claim, read_holder
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import read_entries


@pytest.fixture(scope="module")
def undisturbed(packed: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The sweep captured by one process, in one go."""
    here = small(packed, tmp_path_factory.mktemp("undisturbed"))
    assert here.capture() == ["done", "done"]
    return here


def committed(path: Path) -> list[int]:
    return [entry["k"] for entry in read_entries(LocalFiles(path))]


@pytest.mark.parametrize("sizes", [(8192, 1024, 2048), (1024, 8192), (2048, 4096, 1024, 8192)])
def test_the_size_of_parts_may_change_whenever_a_capture_is_stopped(
    packed: Small, undisturbed: Small, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    for size in sizes[:-1]:
        here = small(packed, tmp_path, f"cache.part_tokens={size}")
        with pytest.raises(Interrupted):
            here.capture(stop=lambda: any(tmp_path.rglob("commits/*")))
        assert all(0 < len(committed(here.place(stage))) < SHARDS for stage in here.stages)
    last = small(packed, tmp_path, f"cache.part_tokens={sizes[-1]}")
    assert last.capture() == ["done", "done"]
    assert last.data() == undisturbed.data()


def _later() -> object:
    """True from the third time on that it is asked: when a capture has begun."""
    asked = iter(range(10**9))
    return lambda: next(asked) > 3


def test_parts_of_another_size_are_left_to_those_who_hold_them(
    packed: Small, undisturbed: Small, tmp_path: Path
) -> None:
    here, waits = small(packed, tmp_path), []
    with ExitStack() as others:
        for stage in here.stages:
            others.enter_context(claim(StageDir(here.place(stage)), "000000-000004"))
        cache.run(here.tasks(waits=waits))
        assert [committed(here.place(stage)) for stage in here.stages] == [[4, 5, 6, 7]] * 2
    assert len(waits) == 2
    cache.run(here.tasks(waits=waits))
    assert len(waits) == 2
    ours = {name: digest for name, digest in here.data().items() if "/work/" not in name}
    theirs = {n: d for n, d in undisturbed.data().items() if not n.endswith("spec.json")}
    assert ours == theirs


def test_what_another_may_be_about_to_claim_is_left_until_all_else_is_done(
    packed: Small, tmp_path: Path
) -> None:
    """A process that holds a part of one array makes a forward for it: the text of that part is its
    own, until nothing else is left to do."""
    here, taken = small(packed, tmp_path), []

    @contextmanager
    def noted(stage: StageDir, part: str) -> Iterator[None]:
        with claim(stage, part):
            if part != DECLARING:
                taken.append((stage.path, part))
            yield

    first, second = (here.place(stage) for stage in here.stages)
    with claim(StageDir(first), "000000-000002"):
        cache.run(here.tasks(noted))
    parts = [f"{s:06d}-{s + 2:06d}" for s in range(2, SHARDS, 2)]
    together = [(place, part) for part in parts for place in (first, second)]
    assert taken == [*together, (second, "000000-000002")]


def test_of_two_that_claim_the_same_parts_one_gets_all(
    packed: Small, model: PreTrainedModel, tmp_path: Path
) -> None:
    here, halfway, over = small(packed, tmp_path), threading.Event(), threading.Event()
    got: dict[str, list[str]] = {"first": [], "second": []}

    def slowly(who: str) -> Holding:
        @contextmanager
        def part(stage: StageDir, name: str) -> Iterator[None]:
            with claim(stage, name):
                if name != DECLARING:
                    got[who].append(f"{stage.slug} {name}")
                    if who == "first" and len(got[who]) == 1:
                        halfway.set()
                        assert over.wait(60)
                yield

        return part

    def claim_all(who: str, stack: ExitStack) -> int:
        found = begun(model, here, slowly(who))
        return len(claimed(stack, found, next(found[0].parts()), True))

    with ExitStack() as one, ExitStack() as two:
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(claim_all("first", one)))
        thread.start()
        assert halfway.wait(60)
        assert claim_all("second", two) == 0 and got["second"] == []
        over.set()
        thread.join(60)
        assert results == [2]


def test_two_that_begin_the_same_arrays_in_other_orders_do_not_wait_for_each_other(
    packed: Small, model: PreTrainedModel, tmp_path: Path
) -> None:
    here = small(packed, tmp_path)
    entered = {1: threading.Event(), -1: threading.Event()}
    done: list[int] = []

    def begin(order: int) -> None:
        @contextmanager
        def part(stage: StageDir, name: str) -> Iterator[None]:
            with claim(stage, name):
                if not entered[order].is_set():
                    entered[order].set()
                    entered[-order].wait(2)  # the other holds its first one, if it can
                yield

        done.append(len(begun(model, here, part, order)))

    threads = [threading.Thread(target=begin, args=(o,), daemon=True) for o in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == [2, 2]


def test_an_array_that_was_finished_meanwhile_is_not_waited_for(
    packed: Small, tmp_path: Path, undisturbed: Small
) -> None:
    here, waits = small(packed, tmp_path), []
    finished = here.place(here.stages[0])

    @contextmanager
    def part(stage: StageDir, name: str) -> Iterator[None]:
        if stage.path == finished:
            done = undisturbed.place(undisturbed.stages[0]) / "done.json"
            (finished / "done.json").write_bytes(done.read_bytes())
            raise Blocked("it was just finished by another process")
        with claim(stage, name):
            yield

    cache.run(here.tasks(part, waits))
    assert committed(here.place(here.stages[1])) == list(range(SHARDS))
    assert len(waits) == 1


def test_no_model_is_loaded_while_others_hold_all_that_is_left(
    packed: Small, model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when their clocks are wrong, and their parts of another size."""
    here, waits = small(packed, tmp_path), []
    begun(model, here)
    for stage in here.stages:
        place = StageDir(here.place(stage))
        with claim(place, "000000-000008"):
            holder = read_holder(place.part_claim("000000-000008"))
        assert holder is not None
        other = place.part_claim("000000-000008")
        other.write_text(json.dumps(asdict(replace(holder, host="far-away"))))
        os.utime(other, (time.time() - 600,) * 2)

    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded for nothing")

    monkeypatch.setattr(cache, "load_model", refuse)
    for _ in range(3):
        cache.run(here.tasks(waits=waits))
    assert len(waits) == 6
