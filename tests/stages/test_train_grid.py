"""One pass, many SAEs: each has the bits that it has alone, and every chunk is read once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training import Bench, bench

from sae_cli.errors import Interrupted
from sae_cli.sae.forms import FORMS
from sae_cli.spec.train import ARCHITECTURES
from sae_cli.stages.grid_order import RESERVED
from sae_cli.stages.train import run
from sae_cli.store.acts.array import ActivationReader

TRAINED = [arch for arch, spec in ARCHITECTURES.items() if spec in FORMS]
GRID: dict[str, dict[str, Any]] = {
    "one": {"k": 4},
    "two": {"k": 4, "seed": 1, "lr": 3e-3, "center": False},
    "wide": {"k": 6, "width": 64, "batch_size": 240},
    "odd": {"k": 3, "batch_size": 70, "num_tokens": 1600, "normalize": False},
    "l1": {"arch": "relu_l1"},
    "jump": {"arch": "jumprelu", "l0": 4},
    "batch": {"arch": "batchtopk", "k": 4},
}
"""Different in everything that a grid may differ in. All on one order."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """sha256 of the files of each SAE of GRID, trained by itself."""
    made = bench(tmp_path_factory.mktemp("alone"))
    for name, spec in GRID.items():
        run([made.task(name, data_seed=7, **spec)])
    return {name: made.sha(name) for name in GRID}


@pytest.fixture
def place(tmp_path: Path) -> Bench:
    return bench(tmp_path)


def tasks(place: Bench, *names: str, **how: Any) -> list:
    return [place.task(n, data_seed=7, **how, **GRID[n]) for n in names or GRID]


def after(n: int) -> Any:
    """A stop that is asked for the `n`th time that one looks, and later."""
    looks = iter(range(n))
    return lambda: next(looks, None) is None


def steps(place: Bench, name: str) -> list[int]:
    lines = (place.root / "train" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each chunk is read from now on."""
    found: Counter[int] = Counter()
    raw = ActivationReader.raw

    def counted(self: ActivationReader, k: int) -> Any:
        found[k] += 1
        return raw(self, k)

    monkeypatch.setattr(ActivationReader, "raw", counted)
    return found


def test_every_sae_of_a_grid_has_the_bits_that_it_has_alone(place, alone):
    run(tasks(place))
    assert {name: place.sha(name) for name in GRID} == alone
    assert len({tuple(files.values()) for files in alone.values()}) == len(GRID)


@pytest.mark.parametrize("arch", TRAINED)
def test_every_architecture_has_the_bits_that_it_has_alone(place, tmp_path, arch):
    own = {"arch": arch, "data_seed": 7, "seed": 2}
    run([place.task("alone", **own)])
    run([place.task("before", data_seed=7, k=4), place.task("among", **own)])
    weights = [place.sha(name)["sae_weights.safetensors"] for name in ("alone", "among")]
    assert weights[0] == weights[1]


def test_the_record_says_with_how_many_threads_it_was_made_and_the_sae_does_not(place):
    run(tasks(place, "one"))
    (name,) = place.finished
    assert place.finished[name]["threads"] == torch.get_num_threads()
    assert "threads" not in (place.root / "train" / name / "cfg.json").read_text()


def test_a_grid_reads_every_chunk_once_an_epoch(place, reads):
    epoch = int(ActivationReader(place.array).kept.sum())
    names = [n for n in GRID if "num_tokens" not in GRID[n] and n != "batch"]
    specs = {n: {**GRID[n], "num_tokens": epoch // 240 * 240} for n in names}
    run([place.task(n, data_seed=7, **spec) for n, spec in specs.items()])
    assert len(place.finished) == len(names) == 5
    assert reads == Counter(range(16))


def test_one_that_calibrates_reads_with_the_others_and_its_reserved_rows_again(place, reads):
    reader = ActivationReader(place.array)
    epoch = int(reader.kept.sum())
    aside = epoch // 16
    assert aside < RESERVED
    size = (epoch - aside) // 10
    both = [{"arch": "batchtopk", "k": 4}, {"k": 4}]
    run([
        place.task(str(i), data_seed=7, batch_size=size, num_tokens=10 * size, **spec)
        for i, spec in enumerate(both)
    ])  # fmt: skip
    assert len(place.finished) == 2
    once = {k: n for k, n in reads.items() if k < 15}
    assert once == dict.fromkeys(range(15), 1)
    assert reads[15] > 1, "the reserved rows are read for calibration"


def test_saes_of_two_orders_read_for_themselves_and_get_their_own_bits(place, reads):
    run([place.task("a", k=4), place.task("b", k=4, seed=1)])
    found = place.sha("a"), place.sha("b")
    assert min(reads.values()) >= 2
    run([place.task("b", k=4, seed=1)])
    assert place.sha("b") == found[1] != found[0]


def test_those_that_were_stopped_elsewhere_or_join_later_meet_on_the_way(place, alone, reads):
    """`one` and `l1` stand at two places, `wide` is finished, the others begin."""
    with pytest.raises(Interrupted, match="step 5 of 20"):
        run(tasks(place, "one", stop=after(4)))
    with pytest.raises(Interrupted, match="step 12 of 20"):
        run(tasks(place, "l1", stop=after(11)))
    run(tasks(place, "wide"))
    reads.clear()
    run(tasks(place, *(n for n in GRID if n != "wide")))
    assert {name: place.sha(name) for name in GRID} == alone
    assert max(n for k, n in reads.items() if k < 14) == 2, "twice: 2,400 rows are 1.3 epochs"
    assert steps(place, "one") == steps(place, "l1") == [5, 10, 15, 20]


@pytest.mark.parametrize("looks", [1, 17, 40, 77])
def test_a_grid_that_was_stopped_goes_on_with_the_same_bits(place, alone, looks):
    with pytest.raises(Interrupted, match="is saved at step"):
        run(tasks(place, stop=after(looks)))
    run(tasks(place))
    assert {name: place.sha(name) for name in GRID} == alone


def test_a_stop_after_the_last_step_is_no_interruption(place, alone):
    run(tasks(place, "one", stop=after(19)))
    assert place.sha("one") == alone["one"]


def test_metrics_say_what_share_of_the_time_was_spent_waiting(place):
    run(tasks(place))
    for name in GRID:
        lines = (place.root / "train" / name / "metrics.jsonl").read_text().splitlines()
        shares = [json.loads(line)["waiting"] for line in lines]
        assert shares and all(0.0 <= share <= 1.0 for share in shares)
        assert any(share > 0 for share in shares)


def test_waiting_is_the_time_that_reading_takes(place, monkeypatch):
    """A clock that only reading moves: by as much as all the rest together."""
    from sae_cli.stages import grid_feed, grid_member

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return Clock.now

    monkeypatch.setattr(grid_feed, "time", Clock())
    monkeypatch.setattr(grid_member, "time", Clock())
    step, fetch = grid_member.Member.step, grid_feed.Feed._fetch

    def stepping(self: Any, *given: Any) -> None:
        Clock.now += 3.0
        step(self, *given)

    def fetching(self: Any, *given: Any) -> None:
        Clock.now += 1.0
        fetch(self, *given)

    monkeypatch.setattr(grid_member.Member, "step", stepping)
    monkeypatch.setattr(grid_feed.Feed, "_fetch", fetching)
    run(tasks(place, "one"))
    lines = (place.root / "train" / "one" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["waiting"] for line in lines] == [0.25] * 4


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
