"""Lines are numbered as an editor numbers them, and one without end takes no memory without end."""

from __future__ import annotations

import io

import pytest

from sae_cli.cli import lines as reading
from sae_cli.cli.lines import Line, lines, no_field


def read(text: bytes) -> list[Line]:
    return list(lines(io.BytesIO(text)))


def test_objects_are_read_and_blank_lines_passed_over() -> None:
    found = read(b'{"a": 1}\n\n  \r\n{"a": "\xc3\xa9"}\r\n{}')
    assert [(line.number, line.data) for line in found] == [
        (1, {"a": 1}),
        (4, {"a": "\u00e9"}),
        (5, {}),
    ]


def test_a_line_that_is_too_long_is_passed_over_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST", 16)
    good = b'{"a": 1}\n'
    fits = b'{"a": "1234567"}'
    assert len(fits) == 16
    text = good + b"x" * 40 + b"\n" + b"y" * 32 + b"\n" + fits[:-2] + b"}\n" + good + b"z" * 17
    found = read(text)
    assert [line.number for line in found] == [1, 2, 3, 4, 5, 6]
    assert ["longer than" in line.wrong for line in found] == [
        False,
        True,
        True,
        False,
        False,
        True,
    ]
    assert found[4].data == {"a": 1}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not valid JSON: "),
        (b'{"a": 1} x', "not valid JSON: Extra data at column 10"),
        (b'{"a": Infinity}', "Infinity is no number of JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested without end"),
        (b"\xff", "not UTF-8"),
        (b'{"a": "\\udc80"}', "half a character"),
        (b"null", "no JSON object"),
    ],
)
def test_what_is_no_object_is_told_and_the_next_line_is_read(line: bytes, why: str) -> None:
    wrong, right = read(line + b"\n{}\n")
    assert wrong.data is None and why in wrong.wrong
    assert (right.number, right.data) == (2, {})


def test_a_field_that_is_missing_is_looked_for_under_other_names() -> None:
    assert no_field({"txt": "a"}, "text") == "no field 'text'  did you mean 'txt'?"
    assert no_field({"prompt": "a", "id": 1}, "text") == "no field 'text' (it has: prompt, id)"
    assert no_field({}, "text") == "no field 'text' (it has: nothing)"
