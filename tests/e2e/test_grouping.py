"""A cell's result is the same alone, in a sweep, beside another process, or joined later."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

CELL = "*tiny.L1.mlp_out.jumprelu*"


def named(text: str, word: str) -> list[str]:
    """The stages of which a run said `word`."""
    lines = [line.split() for line in text.splitlines()]
    return [line[1] for line in lines if len(line) > 1 and line[0] == word]


def test_a_cell_alone_in_a_fresh_workspace_gives_the_bits_of_the_whole_sweep(
    saectl: Any, small: Path, finished: Any, disk: Any
) -> None:
    globs = ("tokens", "cache/*mlp_out", CELL)
    saectl("run", small, *(word for glob in globs for word in ("--only", glob)))
    here, whole = disk(saectl.store), finished
    assert {kind: len(here.done(kind)) for kind in ("cache", "train", "eval", "release")} == {
        "cache": 1,
        "train": 1,
        "eval": 1,
        "release": 0,
    }
    alone = here.artefacts()
    assert alone.items() <= whole.artefacts().items()
    assert here.results().items() <= whole.results().items()
    assert here.curves().items() <= whole.curves().items()


def test_a_site_that_is_captured_later_gets_the_same_bits(
    warm: Any, small: Path, finished: Any, disk: Any
) -> None:
    """Its neighbours were captured in another forward; its evaluations are not run together."""
    (site,) = warm.store.glob("cache/*resid_post*")
    shutil.rmtree(site)
    shutil.rmtree(next(warm.store.glob("eval/*mlp_out.topk*")))
    run = warm("run", small)
    assert sorted(name.split("/")[0] for name in named(run.stderr, "done")) == ["cache", "eval"]
    assert disk(warm.store).artefacts() == finished.artefacts()


def test_two_processes_on_one_workspace_share_the_work(
    saectl: Any, small: Path, finished: Any, disk: Any, processes: Any, table: Any
) -> None:
    """Every stage is done once, by one of the two, and both end well."""
    processes += [saectl.start("run", small), saectl.start("run", small)]
    said = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert not any("Traceback" in text for text in said), said
    did = [name for text in said for name in named(text, "done")]
    assert sorted(did) == sorted(finished.done()), "a stage was done twice, or by nobody"
    for text in said:
        assert "release: " in text and len(table(text)) == 6
    assert disk(saectl.store).artefacts() == finished.artefacts()
    assert disk(saectl.store).results() == finished.results()
    for stage in disk(saectl.store).stages():
        begun = [line for line in (stage / "log.txt").read_text().splitlines() if ": 0 of" in line]
        assert len(begun) == 1, stage


def test_a_waiting_process_can_be_interrupted_and_says_what_it_left(
    saectl: Any, small: Path, finished: Any, disk: Any, processes: Any, until: Any
) -> None:
    first = saectl.start("run", small)
    processes.append(first)
    until(lambda: list(saectl.store.glob("tokens/*/log.txt")))
    first.send_signal(signal.SIGSTOP)  # it keeps its claim, and a living process is not robbed
    second = saectl.start("run", small)
    processes.append(second)
    said = ""
    assert second.stdout is not None
    while "waiting: " not in said:
        line = second.stdout.readline()
        assert line, said
        said += line
    second.send_signal(signal.SIGTERM)
    said += second.communicate(timeout=900)[0]
    assert second.returncode == 130, said
    assert "interrupted: " in said and "nothing to do" not in said, said
    first.send_signal(signal.SIGCONT)
    assert first.communicate(timeout=900) and first.returncode == 0
    assert disk(saectl.store).artefacts() == finished.artefacts()


def test_a_process_takes_over_from_one_that_died(
    saectl: Any, small: Path, finished: Any, disk: Any, processes: Any, until: Any
) -> None:
    first = saectl.start("run", small)
    processes.append(first)
    until(lambda: list(saectl.store.glob("cache/*/log.txt")))
    first.send_signal(signal.SIGSTOP)
    second = saectl.start("run", small)
    processes.append(second)
    assert second.stdout is not None
    said = ""
    while "waiting: " not in said:
        line = second.stdout.readline()
        assert line, said
        said += line
    first.kill()
    said += second.communicate(timeout=900)[0]
    assert second.returncode == 0, said
    assert "release: " in said
    assert disk(saectl.store).artefacts() == finished.artefacts()
