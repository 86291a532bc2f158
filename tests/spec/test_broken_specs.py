"""Every broken spec gets its golden message, exit 2, and no traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = Path(__file__).parents[1] / "golden" / "broken"
SPECS = sorted(BROKEN.glob("*.yaml"))
POINTED = re.compile(r"^(?:error: )?(?P<file>[\w.]+):(?P<line>\d+):(?P<col>\d+): (?P<said>.+)$")


@pytest.mark.parametrize("spec", SPECS, ids=lambda p: p.stem)
def test_it_gets_its_golden_message_and_exit_2(spec, saectl, golden, monkeypatch):
    monkeypatch.chdir(BROKEN)
    answer = saectl("validate", spec.name)
    assert answer.code == 2 and answer.out == ""
    assert "Traceback" not in answer.err
    golden(spec.with_suffix(".txt"), answer.err)


@pytest.mark.parametrize("name", ["several", "unknown_axis", "unclosed"])
def test_the_real_command_says_the_same(name, clean_home):
    ended = subprocess.run(
        [sys.executable, "-m", "sae_cli", "validate", f"{name}.yaml"],
        cwd=BROKEN,
        capture_output=True,
        text=True,
        timeout=60,
    )
    golden = (BROKEN / f"{name}.txt").read_text()
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", golden)


@pytest.mark.parametrize("spec", [p for p in SPECS if p.stem != "not_utf8"], ids=lambda p: p.stem)
def test_each_problem_shows_its_line_with_the_caret_below_what_is_wrong(spec):
    lines = spec.read_text().splitlines() or [""]
    message = spec.with_suffix(".txt").read_text().splitlines()
    heads = [(i, m) for i, text in enumerate(message) if (m := POINTED.match(text))]
    assert heads
    places = []
    for i, head in heads:
        line, col = int(head["line"]), int(head["col"])
        assert head["file"] == spec.name
        places.append((line, col))
        if not spec.read_text().strip() or lines[line - 1].startswith("#"):
            continue  # nothing is there to point at
        shown, below = message[i + 1], message[i + 2]
        assert shown == f"{line:>5} | {lines[line - 1]}".replace("\t", " ")
        assert below.index("^") == len("00000 | ") + col - 1
        assert col <= len(lines[line - 1]) + 1
    assert places == sorted(places), "problems come in the order of the file"
    if len(heads) > 1:
        assert message[-1] == f"{len(heads)} problems"


def test_no_golden_message_has_lost_its_spec():
    assert {p.stem for p in BROKEN.glob("*.txt")} == {p.stem for p in SPECS}
