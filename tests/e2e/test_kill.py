"""Killed anywhere, run again: the same bits as a run that nobody disturbed.

Real processes, real signals. A kill is aimed at a stage by watching the workspace for its claim or
its log, and falls at a random (seeded) moment after that.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

LONG = (
    "data.tokens=270_000",  # two chunks of tokens
    "data.heldout_tokens=16_384",
    "matrix.site=[mlp_out]",
    "train.num_tokens=307_200",  # 600 steps
    "train.shuffle_tokens=32_768",
)
TRAININGS = ("*.topk.*", "*.relu_l1.*", "*.relu_l1.*", "*.jumprelu.*", "*.jumprelu.*")
SPANS = {"tokens": 1.5, "cache": 1.5, "train": 0.6, "eval": 1.5, "release": 0.02}
"""Seconds after a stage's beginning within which it is killed."""
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def long(small: Path) -> tuple[str | Path, ...]:
    """Arguments of a sweep whose every stage takes about a second or more."""
    return ("run", small, *(word for s in LONG for word in ("--set", s)))


@pytest.fixture(scope="module")
def reference(command: Any, disk: Any, long: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What an undisturbed run leaves."""
    store = tmp_path_factory.mktemp("reference") / "store"
    command(store)(*long)
    return disk(store)


def begun(store: Path, glob: str) -> int:
    """Bytes in the logs of some stages: it grows as soon as one of them begins its work."""
    return sum(p.stat().st_size for p in store.glob(f"{glob}/log.txt"))


def claims(store: Path, glob: str) -> dict[Path, bytes]:
    """The claims of some stages; every claim has bytes of its own."""
    found = {}
    for path in store.glob(f"{glob}/claim*"):
        with suppress(FileNotFoundError):  # released in between
            found[path] = path.read_bytes()
    return found


def unfinished(store: Path, glob: str) -> list[str]:
    """The stages that someone claimed and did not finish."""
    places = [p.parent for p in store.glob(f"{glob}/claim*")]
    return [p.name for p in places if not (p / "done.json").exists()]


class Hunter:
    """Starts the command and kills it inside one kind of stage."""

    def __init__(self, saectl: Any, words: Any, until: Callable[..., None]) -> None:
        self.saectl, self.words, self.until = saectl, words, until
        self.dice = random.Random(26)
        self.landed: dict[str, int] = {}

    def strike(self, kind: str, glob: str, *, at_claim: bool = False) -> None:
        """Kill one run in a stage of `glob`: once it is claimed, or a while after it began."""
        store = self.saectl.store
        before = begun(store, glob)
        stale = claims(store, glob)
        process = self.saectl.start(*self.words)

        def there() -> bool:
            if process.poll() is not None:
                return True
            if not at_claim:
                return begun(store, glob) > before
            return any(data and stale.get(p) != data for p, data in claims(store, glob).items())

        try:
            self.until(there)
            if not at_claim:
                time.sleep(self.dice.uniform(0, SPANS[kind]))
        finally:
            process.kill()
            said = process.communicate()[0]
        assert process.returncode in (-signal.SIGKILL, 0), said
        if process.returncode and unfinished(store, glob):
            self.landed[kind] = self.landed.get(kind, 0) + 1


def test_kill_9_in_every_stage_leaves_no_trace_in_the_results(
    saectl: Any, disk: Any, long: Any, reference: Any, until: Any
) -> None:
    hunter = Hunter(saectl, long, until)
    for kind in SPANS:
        hunter.strike(kind, f"{kind}/*", at_claim=True)
        for name in TRAININGS if kind == "train" else ("*", "*"):
            hunter.strike(kind, f"{kind}/{name}")
    saectl(*long)
    here = disk(saectl.store)
    assert here.artefacts() == reference.artefacts()
    assert here.results() == reference.results()
    assert here.curves() == reference.curves()
    here.verify()
    assert hunter.landed.keys() == SPANS.keys(), f"some stage was never hit: {hunter.landed}"
    assert hunter.landed["train"] >= 2, hunter.landed


def test_dying_just_after_done_json_leaves_no_trace_either(
    saectl: Any, disk: Any, small: Path, finished: Any
) -> None:
    """The moment between a stage's last word and the release of its claim."""
    dying = {"PYTHONPATH": str(HERE / "dying"), "DIE_AT": "done 4"}
    for _ in range(len(finished.done())):
        process = saectl.start("run", small, env=dying)
        said = process.communicate()[0]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
    else:
        pytest.fail("it never got to the end")
    saectl("run", small)
    assert disk(saectl.store).artefacts() == finished.artefacts()


def test_dying_while_gc_deletes_can_be_run_over(
    warm: Any, disk: Any, small: Path, finished: Any
) -> None:
    dying = {"PYTHONPATH": str(HERE / "dying"), "DIE_AT": "deletion 3"}
    process = warm.start("gc", "--yes", env=dying)
    assert process.communicate() and process.returncode == -signal.SIGKILL
    assert "nothing to do" in warm("run", small).stdout
    warm("train", small, "--force", "-q")
    assert disk(warm.store).artefacts() == finished.artefacts()


def test_dying_while_force_empties_a_folder_can_be_run_over(
    warm: Any, disk: Any, small: Path, finished: Any
) -> None:
    dying = {"PYTHONPATH": str(HERE / "dying"), "DIE_AT": "deletion 5"}
    process = warm.start("cache", small, "--force", env=dying)
    assert process.communicate() and process.returncode == -signal.SIGKILL
    warm("run", small, "-q")
    assert disk(warm.store).artefacts() == finished.artefacts()


def interrupt(
    saectl: Any, words: Any, glob: str, number: signal.Signals, until: Any, *, times: int = 1
) -> str:
    """Start, send the signal when a stage of `glob` has begun, and return what was said."""
    before = begun(saectl.store, glob)
    process: subprocess.Popen[str] = saectl.start(*words)
    try:
        until(lambda: process.poll() is not None or begun(saectl.store, glob) > before)
        for _ in range(times):
            process.send_signal(number)
        said, _ = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said, said
    assert "error:" not in said, said
    assert not list(saectl.store.glob("*/*/claim*")), "a claim was left behind"
    return str(said)


def test_sigterm_and_sigint_save_say_so_and_exit_130(
    saectl: Any, disk: Any, long: Any, reference: Any, until: Any
) -> None:
    for glob, number in (
        ("tokens/*", signal.SIGTERM),
        ("cache/*", signal.SIGINT),
        ("train/*topk*", signal.SIGTERM),
        ("train/*topk*", signal.SIGINT),
        ("eval/*", signal.SIGINT),
    ):
        said = interrupt(saectl, long, glob, number, until)
        assert f"{number.name}: finishing the step" in said
        assert "interrupted: " in said and "saved at" in said, said
        if glob == "train/*topk*" and number is signal.SIGINT:
            assert ", resumes at " in said, said
        if glob == "cache/*":
            told = re.search(r"saved at ([\d,]+) of [\d,]+ tokens", said)
            assert told is not None, said
            assert f"{told[1]}/" in saectl("status", *long[1:]).stdout, "it keeps what it says"
    saectl(*long)
    here = disk(saectl.store)
    assert here.artefacts() == reference.artefacts()
    assert here.curves() == reference.curves()


def test_a_second_sigint_insists_and_harms_nothing(
    saectl: Any, disk: Any, long: Any, reference: Any, until: Any
) -> None:
    shutil.copytree(reference.root, saectl.store, symlinks=True)
    for stage in disk(saectl.store).stages("train"):
        shutil.rmtree(stage)
    interrupt(saectl, long, "train/*topk*", signal.SIGINT, until, times=2)
    saectl(*long, "-q")
    assert disk(saectl.store).artefacts() == reference.artefacts()


def test_training_goes_on_from_its_checkpoint_after_kill_9(
    saectl: Any, disk: Any, long: Any, reference: Any, until: Any
) -> None:
    shutil.copytree(reference.root, saectl.store, symlinks=True)
    (stage,) = saectl.store.glob("train/*jumprelu*")
    shutil.rmtree(stage)
    only = (*long, "--only", "train/*jumprelu*")
    process = saectl.start(*only)
    try:
        until(lambda: process.poll() is not None or (stage / "work/state.safetensors").exists())
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not (stage / "done.json").exists()
    status = saectl.sweep("plan", *long[1:], "--only", "train/*jumprelu*")
    assert status["stages"][0]["reason"].startswith("resumes"), status
    again = saectl(*only)
    step = again.stderr.split("resumes at ")[1].split()[0].rstrip(",")
    assert int(step.replace(",", "")) >= 7
    assert disk(saectl.store).artefacts("train") == reference.artefacts("train")
