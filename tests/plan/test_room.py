"""What a sweep writes, counted against the disk and its quota; a bucket costs neither."""

from __future__ import annotations

import pytest

from sae_cli.errors import SpecError
from sae_cli.plan.jobs import disk_bytes
from sae_cli.plan.place import folder
from sae_cli.plan.reason import explain
from sae_cli.plan.room import refusal, room
from sae_cli.store.atomic import write_json
from sae_cli.store.records import space

ONE = "name: one\ndata: {tokens: 4096, context: 64}\ntrain: {width: 64}\nmatrix: {layer: [1, 2]}\n"


@pytest.fixture
def asked(workspace):
    return lambda graph: room(graph, explain(graph, workspace), workspace)


def planned(graph, *kinds):
    return sum(disk_bytes(s) for s in graph.of(*kinds))


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("500 GB", 500 * 10**9),
        ("2TB", 2 * 10**12),
        ("1.5 tb", 15 * 10**11),
        ("200 GiB", 200 * 2**30),
        ("12345", 12345),
        ("7 kB", 7000),
        ("null", None),
    ],
)
def test_a_quota_is_a_size_as_people_write_it(graph, said, size):
    assert graph(ONE, f"quota={said}").sweep.spec.quota == size


@pytest.mark.parametrize("said", ["lots", "-3 GB", "2.5.1 GB", "5 i", "[1]", "1 XB"])
def test_nonsense_is_no_quota(graph, said):
    with pytest.raises(SpecError, match="is not a size: write 500 GB, 2TB, or a number of bytes"):
        graph(ONE, f"quota={said}")
    with pytest.raises(SpecError, match="leaves no room"):
        graph(ONE, "quota=0")


def test_a_plan_counts_what_is_to_be_written_less_what_is_there(graph, asked, workspace):
    made = graph(ONE)
    whole = planned(made, "tokens", "cache", "train", "eval", "release")
    before = asked(made)
    assert (before.local, before.bucket, before.unknown) == (whole, 0, 0)
    assert before.quota is None and before.warnings == []
    place = folder(workspace, made.of("cache")[0])
    place.part_commits.mkdir(parents=True)
    (place.path / "half").write_bytes(bytes(1000))
    assert asked(made).local == whole - 1000


def test_what_goes_to_a_bucket_does_not_count_for_the_disk(graph, asked, workspace):
    made = graph(ONE, "cache.store=s3://bucket/prefix")
    captured = planned(made, "cache")
    found = asked(made)
    assert (found.bucket, found.local) == (
        captured,
        planned(made, "tokens", "train", "eval", "release"),
    )
    begun = folder(workspace, made.of("cache")[0])
    begun.part_commits.mkdir(parents=True)
    assert asked(made).bucket == captured // 2, "what was begun here stays here"


def test_where_the_data_lie_is_believed_over_the_spec(graph, asked, workspace):
    made = graph(ONE)
    place = folder(workspace, made.of("cache")[0])
    place.path.mkdir(parents=True)
    write_json(place.path / "data.json", {"url": "s3://bucket/elsewhere"})
    assert asked(made).bucket == planned(made, "cache") // 2


def test_a_plan_that_does_not_fit_is_told(graph, asked, monkeypatch):
    monkeypatch.setattr("sae_cli.plan.room.free_bytes", lambda _: 1000)
    (disk,) = asked(graph(ONE)).warnings
    assert disk.startswith("does not fit: ") and "1 kB free" in disk and "are missing" in disk
    both = asked(graph(ONE, "quota=2 kB")).warnings
    assert len(both) == 2 and "the quota of 2 kB: 0 B used" in both[1]


def test_a_job_that_its_quota_has_no_room_for_is_refused_with_what_uses_it(graph, workspace):
    tokens = disk_bytes(graph(ONE).of("tokens")[0])
    captured = planned(graph(ONE), "cache")
    enough = graph(ONE, f"quota={tokens + captured}")
    assert refusal(enough, workspace, enough.of("cache")) is None
    place = folder(workspace, enough.of("tokens")[0])
    place.path.mkdir(parents=True)
    (place.path / "data").write_bytes(bytes(tokens))
    assert refusal(enough, workspace, enough.of("cache")) is None
    assert refusal(enough, workspace, enough.of("tokens")) is None
    short = graph(ONE, f"quota={tokens + captured - 1}")
    said = refusal(short, workspace, short.of("cache"))
    assert said is not None and "saectl gc" in said
    assert f"{space.told(captured)} are to be written" in said
    assert f"tokens {space.told(tokens)}" in said
    assert refusal(short, workspace, short.of("cache")[:1]) is None
    assert refusal(short, workspace, short.of("eval", "release")) is None
    aside = graph(ONE, f"quota={tokens + captured - 1}", "cache.store=s3://bucket/prefix")
    assert refusal(aside, workspace, aside.of("cache")) is None


def test_what_is_half_written_counts_once(graph, workspace):
    made = graph(ONE, f"quota={planned(graph(ONE), 'cache')}")
    for stage in made.of("cache"):
        place = folder(workspace, stage)
        place.path.mkdir(parents=True)
        (place.path / "half").write_bytes(bytes(5000))
    assert refusal(made, workspace, made.of("cache")) is None


def test_free_space_is_that_of_the_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert space.free_bytes(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize(
    ("n", "said"), [(None, "?"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e15, "2e+03 TB")]
)
def test_sizes_are_told_in_powers_of_ten(n, said):
    assert space.told(n) == said
