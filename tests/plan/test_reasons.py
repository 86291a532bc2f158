"""A plan says of each stage what would happen and why, from what the ledger left on disk."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from sae_cli.plan.place import folder, record_of
from sae_cli.plan.reason import ago, explain
from sae_cli.spec.work import VERSIONS
from sae_cli.store.records.claim import claim
from sae_cli.store.records.evict import evict
from sae_cli.store.records.ledger import open_stage, record_done, record_failed

ONE = """\
name: one
train: {width: 64}
matrix: {layer: [1]}
"""
TWO = ONE.replace("[1]", "[1, 2]")
HERE = socket.gethostname()


@pytest.fixture
def rows(workspace):
    """`rows(graph, ...)`: kind -> (action, reason) of a plan with one stage of each kind."""

    def make(graph, chosen=None, force=()):
        found = explain(graph, workspace, chosen, force)
        assert len({r.stage.kind for r in found}) == len(found)
        return {r.stage.kind: (r.action, r.reason) for r in found}

    return make


def begin(place, stage, *, step=None, failed=None):
    """A stage that was begun, and left: with progress, and perhaps a failure."""
    with claim(place) as held:
        open_stage(place, record_of(stage))
        if step is not None:
            held.progress(*step)
        if failed is not None:
            record_failed(held, failed)


def test_in_a_new_workspace_all_is_to_do_in_order(graph, rows):
    assert rows(graph(ONE)) == {
        "tokens": ("run", "never done"),
        "cache": ("run", "never done; after tokens"),
        "train": ("run", "never done; after cache, tokens"),
        "eval": ("run", "never done; after train, cache, tokens"),
        "release": ("run", "never done; after train, cache, tokens, eval"),
    }


def test_what_is_done_is_skipped(graph, rows, finish):
    made = graph(ONE)
    finish(made.stages)
    assert {(action, reason.split()[0]) for action, reason in rows(made).values()} == {
        ("skip", "done")
    }


def test_what_is_done_halfway_goes_on_from_there(graph, rows, finish):
    made = graph(ONE)
    finish(made.of("tokens", "cache"))
    found = rows(made)
    assert found["cache"][0] == "skip"
    assert found["train"] == ("run", "never done")
    assert found["eval"] == ("run", "never done; after train")


@pytest.mark.parametrize(
    ("edit", "reasons"),
    [
        (
            "eval.dense_threshold=0.2",
            {
                "eval": "eval.dense_threshold: 0.1 -> 0.2",
                "release": "new input: eval",
            },
        ),
        (
            "train.lr=0.001",
            # the learning rate is part of the name, so no elder is there to compare with
            {
                "train": "never done",
                "eval": "never done; after train",
                "release": "new input: train, eval",
            },
        ),
        (
            "train.batch_size=64",
            {
                "train": "train.batch_size: 2048 -> 64",
                "eval": "new input: train",
                "release": "new input: train, eval",
            },
        ),
        (
            "release.title=A suite of my own",
            {"release": "release.title: null -> A suite of my own"},
        ),
    ],
)
def test_an_edit_names_the_field_and_what_it_drags_along(graph, rows, finish, edit, reasons):
    finish(graph(ONE).stages)
    found = rows(graph(ONE, edit))
    assert {k: reason for k, (action, reason) in found.items() if action == "run"} == reasons
    assert all(a in ("run", "skip") for a, _ in found.values())


def test_many_edits_name_the_first_three(graph, rows, finish):
    finish(graph(ONE).stages)
    two = ["data.seed=1", "data.chat_template=true"]
    assert rows(graph(ONE, *two))["tokens"] == (
        "run",
        "data.chat_template: false -> true; data.seed: 0 -> 1",
    )
    more = ["data.context=64", "data.tokens=400_100", "data.heldout_tokens=8"]
    found = rows(graph(ONE, *two, *more))
    assert found["tokens"] == ("run", "never done"), "another context is another name"
    assert found["cache"][1] == "new input: tokens"
    wide = rows(graph(ONE, "eval={tokens: 9, splice: false, batch_tokens: 8, dense_threshold: 1}"))
    assert wide["eval"][1].endswith("; ...") and wide["eval"][1].count(" -> ") == 3


def test_a_long_value_is_shown_short(graph, rows, finish):
    finish(graph(ONE).stages)
    found = rows(graph(ONE, f"release.description={'long ' * 20}"))
    assert found["release"] == ("run", "release.description: null -> long long long long l...")


def test_the_latest_elder_is_the_one_compared_with(graph, rows, finish):
    finish(graph(ONE).stages)
    (old,) = finish(graph(ONE, "eval.dense_threshold=0.2").of("eval"))
    os.utime(old.spec, (2**32, 2**32))
    found = rows(graph(ONE, "eval.dense_threshold=0.3"))
    assert found["eval"] == ("run", "eval.dense_threshold: 0.2 -> 0.3")


def test_a_new_version_is_a_reason(graph, rows, finish, monkeypatch):
    finish(graph(ONE).stages)
    monkeypatch.setitem(VERSIONS, "eval", VERSIONS["eval"] + 1)
    found = rows(graph(ONE))
    assert found["eval"] == ("run", f"eval version {VERSIONS['eval'] - 1} -> {VERSIONS['eval']}")
    assert found["release"] == ("run", "new input: eval")


def test_a_stage_that_was_left_resumes_where_it_stood(graph, rows, finish, workspace):
    made = graph(ONE)
    finish(made.of("tokens", "cache"))
    (train,) = made.of("train")
    begin(folder(workspace, train), train)
    assert rows(made)["train"] == ("run", "resumes")
    begin(folder(workspace, train), train, step=(1500, 20000))
    assert rows(made)["train"] == ("run", "resumes at 1,500/20,000")


def test_a_failure_says_its_cause(graph, rows, finish, workspace):
    made = graph(ONE)
    finish(made.of("tokens", "cache"))
    (train,) = made.of("train")
    begin(folder(workspace, train), train, step=(7, 10), failed="loss is NaN\nat step 7")
    assert rows(made)["train"] == ("run", "tries again at 7/10: loss is NaN")


def test_a_stage_that_runs_is_waited_for(graph, rows, finish, workspace):
    made = graph(ONE)
    finish(made.of("tokens", "cache"))
    (train,) = made.of("train")
    with claim(folder(workspace, train)):
        found = rows(made)
        assert found["train"] == ("wait", f"running on {HERE} pid {os.getpid()}")
        assert found["eval"] == ("run", "never done; after train")
        assert rows(made, made.of("eval"))["eval"] == ("wait", f"{train.name} is running")


def test_a_dead_process_is_taken_over(graph, rows, finish, workspace):
    made = graph(ONE)
    finish(made.of("tokens", "cache"))
    (train,) = made.of("train")
    place = folder(workspace, train)
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from sae_cli.store.records.claim import claim\nfrom sae_cli.store.layout import StageDir\n"
        "with claim(StageDir(Path(sys.argv[1]))):\n    os._exit(9)"
    )
    dead = subprocess.Popen([sys.executable, "-c", code, str(place)])
    assert dead.wait(timeout=60) == 9
    assert rows(made)["train"] == ("run", f"resumes: {HERE} pid {dead.pid} is gone")


def test_what_is_not_chosen_and_not_there_blocks(graph, rows, finish):
    made = graph(ONE)
    tokens, cache, train, evaluation, _ = made.stages
    finish([tokens])
    assert rows(made, [train])["train"] == ("blocked", f"needs {cache.name}, which is not chosen")
    assert rows(made, [cache, train])["train"][0] == "run"
    assert rows(made, [evaluation])["eval"] == (
        "blocked",
        f"needs {train.name}, which is not chosen",
    )


def test_freed_activations_are_left_alone_when_nothing_reads_them(graph, rows, finish, workspace):
    made = graph(ONE)
    finish(made.stages)
    (cache,) = made.of("cache")
    place = folder(workspace, cache)
    evict(place, [place.path / "data.bin"])
    found = rows(made)
    assert found["cache"][0] == "skip"
    assert re.fullmatch(
        r"done; its data was freed (just now|\d+ s ago), nothing needs it", found["cache"][1]
    )
    assert {a for a, _ in found.values()} == {"skip"}


def test_freed_activations_are_made_again_for_a_training_and_not_for_an_evaluation(
    graph, rows, finish, workspace
):
    finish(graph(ONE).stages)
    (cache,) = graph(ONE).of("cache")
    place = folder(workspace, cache)
    evict(place, [place.path / "data.bin"])

    scored = rows(graph(ONE, "eval.dense_threshold=0.2"))
    assert [k for k, (a, _) in scored.items() if a == "run"] == ["eval", "release"]

    trained = graph(ONE, "train.batch_size=64")
    (train,) = trained.of("train")
    found = rows(trained)
    assert found["cache"][0] == "run"
    assert re.fullmatch(
        rf"its data was freed (just now|\d+ s ago); needed by {re.escape(train.name)}",
        found["cache"][1],
    )
    assert found["train"] == ("run", "train.batch_size: 2048 -> 64")
    assert found["tokens"][0] == "skip"
    assert rows(trained, [train])["train"] == (
        "blocked",
        f"needs {cache.name}, whose data was freed",
    )


def test_force_says_so(graph, rows, finish):
    made = graph(ONE)
    finish(made.stages)
    (train,) = made.of("train")
    found = rows(made, force={train.name})
    assert found["train"] == ("run", "forced")
    assert found["eval"][0] == "skip"


def test_what_another_sweep_made_is_not_made_again(graph, finish, workspace):
    finish(graph(ONE).stages)
    rows = explain(graph(TWO.replace("one", "two")), workspace)
    skipped = {r.stage.name for r in rows if r.action == "skip"}
    assert skipped == {s.name for s in graph(ONE).stages if s.kind != "release"}


def test_a_stage_is_found_by_its_key_when_its_readable_name_changed(graph, finish, workspace):
    made = graph(ONE)
    (place, *_) = finish(made.of("tokens"))
    renamed = place.path.with_name(f"another.name-{place.key}")
    shutil.move(place.path, renamed)
    (tokens,) = made.of("tokens")
    assert folder(workspace, tokens).path == renamed
    assert explain(made, workspace)[0].action == "skip"


def test_what_is_there_takes_no_more_disk(graph, finish, workspace):
    made = graph(ONE)
    finish(made.of("tokens"))
    sizes = {r.stage.kind: r.bytes for r in explain(made, workspace)}
    assert sizes["tokens"] == 0 and sizes["cache"] > 0


def test_a_record_that_was_done_by_its_own_rules_only_counts_as_done(graph, workspace):
    made = graph(ONE)
    (tokens,) = made.of("tokens")
    place = folder(workspace, tokens)
    with claim(place) as held:
        open_stage(place, record_of(tokens))
        (place.path / "data.bin").write_bytes(b"x")
        assert explain(made, workspace)[0].action == "wait", "all data is there, and it is not done"
        record_done(held, [place.path / "data.bin"], {}, 1.0)
        assert explain(made, workspace)[0].action == "skip"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "some time ago"),
        (0.3, "just now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (7200, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_ages_are_told_roughly(seconds, said):
    assert ago(seconds) == said
