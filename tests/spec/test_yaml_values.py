"""YAML's traps are closed: numbers are numbers, texts stay texts, every key has its place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_cli.errors import SpecError
from sae_cli.spec import yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3E5", 3e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("4_096", 4096),
        ("1_000.5", 1000.5),
        ("012", 12),
        ("0x1F", 31),
        ("+7", 7),
        ("-0", 0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1e999", math.inf),
        ("true", True),
        ("no", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'no'", "no"),
        ("1:30", "1:30"),
        ("0o17", "0o17"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        ("-", [None]),
        (".", "."),
        ("0x", "0x"),
        ("_1", "_1"),
        ("qwen3-1.7b", "qwen3-1.7b"),
    ],
)
def test_a_scalar_is_read_as_a_person_means_it(text, value):
    read = yaml.parse(f"key: {text}" if text != "-" else "key:\n  -", "f").data["key"]
    assert read == value and type(read) is type(value)


def test_nan_is_read_as_a_number_so_that_the_spec_can_refuse_it():
    assert math.isnan(yaml.parse("key: .nan", "f").data["key"])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_python_prints_no_float_that_is_read_otherwise(number):
    assert yaml.parse(f"- {number!r}", "f").data == [number]


@given(st.integers(min_value=-(10**40), max_value=10**40))
def test_whole_numbers_come_back_whole(number):
    read = yaml.parse(f"- {number}", "f").data[0]
    assert read == number and type(read) is int


def test_a_merged_section_gives_way_to_its_own_keys():
    text = "a: &a {k: 1, lr: 2}\nb: &b {<<: *a, k: 3}\nc: *b\n"
    document = yaml.parse(text, "f")
    assert document.data["b"] == document.data["c"] == {"lr": 2, "k": 3}
    assert document.problems == [], "an alias is no second key"


def test_a_key_given_twice_is_told_once_with_both_lines():
    document = yaml.parse("a: &a\n  k: 1\n  k: 2\nb: *a\n", "f")
    (problem,) = document.problems
    assert problem.loc == ("a", "k") and "line 2" in problem.what
    mark = document.mark(problem)
    assert mark is not None and (mark.line, mark.col) == (3, 3)


def test_a_place_that_is_not_in_the_file_falls_back_to_what_is_around_it():
    from sae_cli.spec.problems import Problem

    document = yaml.parse("a:\n  b:\n    - {c: 1}\n", "f")
    mark = document.mark(Problem(("a", "b", 0, "no", "such"), "?"))
    assert mark is not None and (mark.line, mark.col) == (3, 7)
    root = document.mark(Problem(("elsewhere",), "?"))
    assert root is not None and (root.line, root.col) == (1, 1)


@given(st.text(max_size=60))
def test_no_text_whatever_gets_more_than_a_spec_error(text):
    try:
        yaml.parse(text, "f")
    except SpecError as error:
        assert str(error).startswith("f:")


@pytest.mark.parametrize(
    "text", ["[" * 3000, "a: &a [*a]", "? [x]\n: y", "{<<: 3}", "- !!python/name:os.system x"]
)
def test_yaml_that_means_harm_gets_a_spec_error(text):
    with pytest.raises(SpecError, match=r"^f:\d+:\d+: not valid YAML"):
        yaml.parse(text, "f")
