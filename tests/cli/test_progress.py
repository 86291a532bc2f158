"""Progress says rates with their units, shares in percent, and what is left."""

from __future__ import annotations

import pytest

from sae_cli.cli import progress
from sae_cli.cli.progress import Lines, clock, worded


def test_numbers_read_as_people_say_them():
    assert worded({"MB/s": 312.4, "MFU": 0.412, "loss": 0.123456}) == [
        "312 MB/s",
        "MFU 41%",
        "loss 0.1235",
    ]


def test_a_line_has_tokens_a_second_and_the_time_left(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = Lines()
    lines.begin("4 sites", 10_000, 1000, "tokens")
    now[0] += 10.0
    lines.at(4000, {"MB/s": 1234.5, "MFU": 0.05})
    assert capsys.readouterr().err.splitlines() == [
        "4 sites: 10,000 tokens, resumes at 1,000",
        "4 sites: 4,000/10,000 tokens  300 tokens/s  ETA 20s  1,234 MB/s  MFU 5%",
    ]


def test_quiet_says_nothing(capsys):
    lines = Lines(quiet=True)
    lines.begin("x", 10, 0, "tokens")
    lines.note("y")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4, "4s"), (200, "3m20s"), (7500, "2h05m"), (float("inf"), "?"), (float("nan"), "?")],
)
def test_durations_are_short(seconds, said):
    assert clock(seconds) == said
