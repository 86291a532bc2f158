"""Every path of a workspace, said once.

    <root>/<kind>/<slug>-<key>/     one stage: its spec, log, data, work, records
    <root>/runs/<sweep>/<kind>/     a sweep's view of them: relative links, safe to delete
    <root>/bench/<device>.json      what was measured on a device, safe to delete
    <root>/answers/                 what judges answered, so that nobody pays twice

Nothing here reads what is inside a file. Names come through `key.slug`'s alphabet, so a spec
can't point outside the workspace: anything else is refused.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sae_cli.errors import UsageError

RUNS = "runs"
BENCH = "bench"
ANSWERS = "answers"
APART = (RUNS, BENCH, ANSWERS)
"""What stands beside the kinds of stages."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class StageDir:
    """One stage's folder and the files in it. Exists only as a name until someone writes there."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def kind(self) -> str:
        """`tokens`, `cache`, `train`, ..."""
        return self.path.parent.name

    @property
    def slug(self) -> str:
        """The part of the name that people read."""
        return self.path.name.rpartition("-")[0]

    @property
    def key(self) -> str:
        """8 hex digits."""
        return self.path.name.rpartition("-")[2]

    @property
    def spec(self) -> Path:
        """What the key was made from."""
        return self.path / "spec.json"

    @property
    def log(self) -> Path:
        """What the stage said while it ran."""
        return self.path / "log.txt"

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def work(self) -> Path:
        """Resume state; worth nothing once the stage is done."""
        return self.path / "work"

    @property
    def progress(self) -> Path:
        """How far the holder of the claim is, for `status`."""
        return self.work / "progress.json"

    @property
    def claim(self) -> Path:
        """Who works here now."""
        return self.path / "claim"

    def part_claim(self, part: str | None) -> Path:
        """Who works on a part of it now; without one, on all of it."""
        return self.claim if part is None else self.path / f"claim.{part}"

    @property
    def claims(self) -> list[Path]:
        """Every claim that is there: of the whole stage, and of parts."""
        return [p for p in (self.claim, *sorted(self.path.glob("claim.*"))) if p.exists()]

    @property
    def claim_lock(self) -> Path:
        """The lock under which a claim changes hands. Never deleted."""
        return self.path / ".claim.lock"

    @property
    def done(self) -> Path:
        """Written last; this file alone means done."""
        return self.path / "done.json"

    @property
    def failed(self) -> Path:
        """Why the latest attempt ended."""
        return self.path / "failed.json"

    @property
    def evicted(self) -> Path:
        """Which data of a done stage was deleted."""
        return self.path / "evicted.json"

    @property
    def commits(self) -> Path:
        """Log of the chunks that exist."""
        return self.path / "commits.jsonl"

    @property
    def part_commits(self) -> Path:
        """Logs of the parts that are being written."""
        return self.path / "commits"

    @property
    def activations(self) -> Path:
        """The rows, why they do not count, and their statistics: a zarr group."""
        return self.path / "activations.zarr"

    @property
    def activation_data(self) -> list[Path]:
        """What may be freed of finished activations, in the order to delete it. Statistics stay."""
        return [self.commits, self.part_commits, self.activations]

    @property
    def stats(self) -> Path:
        """Moments of the kept rows."""
        return self.path / "stats.safetensors"


@dataclass(frozen=True)
class Workspace:
    """The folder that everything lives in."""

    root: Path

    def stage_dir(self, kind: str, slug: str, key: str) -> StageDir:
        """The folder of a stage, whether it exists or not.

        Raises UsageError for a name that `key.slug` would not have made.
        """
        if kind in APART:
            raise UsageError(f"a stage can't be called {kind!r}: that folder holds other things")
        for name in (kind, slug):
            _refuse_unsafe(name)
        if not _KEY.fullmatch(key):
            raise UsageError(f"{key!r} is not a key (8 hex digits)")
        return StageDir(self.root / kind / f"{slug}-{key}")

    def stages(self, kind: str | None = None) -> Iterator[StageDir]:
        """Every stage folder on disk, of one kind or of all, sorted by kind and name."""
        for folder in _folders(self.root):
            if folder.name not in APART and kind in (None, folder.name):
                for path in _folders(folder):
                    text, _, key = path.name.rpartition("-")
                    if _NAME.fullmatch(text) and _KEY.fullmatch(key):
                        yield StageDir(path)

    def run_dir(self, sweep: str) -> Path:
        """The view of a sweep. Raises UsageError for an unsafe name."""
        _refuse_unsafe(sweep)
        return self.root / RUNS / sweep

    @property
    def bench(self) -> Path:
        """What was measured of devices (`plan.calibration`)."""
        return self.root / BENCH

    def link_run(self, sweep: str, stages: Iterable[StageDir]) -> Path:
        """Make the sweep's view show exactly `stages`, and return it.

        Each link appears and changes atomically; doing it again, or from two processes at once,
        changes nothing. Links of stages that are no longer in the sweep go; files that are not
        links stay, and so do the stages themselves.
        """
        view = self.run_dir(sweep)
        wanted = {view / stage.kind / stage.path.name: stage.path for stage in stages}
        for link, target in wanted.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            text = os.path.relpath(target, link.parent)
            if not link.is_symlink() or str(link.readlink()) != text:
                temp = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
                temp.symlink_to(text, target_is_directory=True)
                temp.replace(link)
        for folder in _folders(view):
            for entry in folder.iterdir():
                if entry.is_symlink() and entry not in wanted and not entry.name.startswith("."):
                    entry.unlink(missing_ok=True)
        view.mkdir(parents=True, exist_ok=True)
        return view


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where nothing is."""
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def _refuse_unsafe(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't name a folder of the workspace",
            hint="use letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
