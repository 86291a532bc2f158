"""Every verb explains itself, and a wrong command line ends with 2 and a word on what to type."""

from __future__ import annotations

import re

import pytest

from sae_cli import __version__
from sae_cli.cli.app import app
from sae_cli.errors import OK, USAGE

VERBS = (
    "run", "cache", "train", "eval", "release", "validate", "plan", "status", "ls", "show", "gc",
    "schema", "verify", "bench", "results", "compare", "report", "import", "inspect",
    "monitor", "steer", "browse",
)  # fmt: skip


def test_the_verbs_are_those_that_are_documented():
    assert {c.name or c.callback.__name__ for c in app.registered_commands} == set(VERBS)


@pytest.mark.parametrize("verb", [None, *VERBS])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_explains(saectl, verb, flag):
    answer = saectl(*filter(None, (verb, flag)))
    assert (answer.code, answer.err) == (OK, "")
    assert "Usage: " in answer.out
    if verb is None:
        assert all(name in answer.out for name in VERBS)


@pytest.mark.parametrize("verb", ["run", "cache", "train", "eval", "steer", "release"])
def test_the_stage_verbs_share_their_flags(saectl, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = saectl(verb, "--help").out
    for flag in (
        "--set", "--only", "--force", "--force-downstream", "--keep-going", "--json", "--quiet",
        "--verbose", "--model", "--store", "--dry-run", "--all", "--yes",
    ):  # fmt: skip
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", said), flag


def test_version(saectl):
    answer = saectl("--version")
    assert (answer.code, answer.out) == (OK, f"saectl {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("frobnicate",), "frobnicate"),
        (("run", "--frobnicate"), "--frobnicate"),
        (("show",), "KEY"),
        (("validate",), "SPEC"),
        (("plan", "no_such.yaml"), "no_such.yaml: no such sweep file"),
        (("run", "tiny", "--all"), "leave out SPEC"),
        (("plan", "tiny", "--only", "nothing"), "--only nothing: matches no stage of tiny"),
        (("plan", "tiny", "--set", "x"), "write --set section.field=value"),
        (("train", "tiny", "--only", "release"), "names no train stage"),
        (("ls", "cach"), "did you mean 'cache'?"),
        (("show", "00000000"), "no such stage"),
    ],
)
def test_bad_usage_ends_with_2(saectl, small, arguments, said):
    answer = saectl(*arguments)
    assert (answer.code, answer.out) == (USAGE, "")
    assert said.lower() in answer.err.lower()
    assert "Traceback" not in answer.err


def test_verbose_shows_the_traceback_of_an_expected_error(saectl, small):
    answer = saectl("plan", "no_such.yaml", "-v")
    assert answer.code == USAGE
    assert "Traceback" in answer.err and "error: no_such.yaml: no such sweep file" in answer.err


@pytest.mark.parametrize(
    "verb", ["run", "cache", "train", "eval", "steer", "release", "plan", "status", "gc"]
)
def test_without_a_sweep_in_a_new_workspace_the_answer_says_what_to_type(saectl, small, verb):
    answer = saectl(verb)
    assert (answer.code, answer.out) == (USAGE, "")
    assert answer.err == (
        "error: no sweep given, and none was run in store\n"
        "  give a sweep file: saectl run sweeps/tiny.yaml\n"
    )


def test_an_empty_workspace_lists_nothing_and_says_so(saectl, small):
    answer = saectl("ls")
    assert (answer.code, answer.out) == (OK, "store: nothing there yet\n")
