"""The records of a stage, in its folder: its spec, that it is done, why it failed, what it was.

`done.json` is written last, after every output was hashed and synced; it alone means done. A
failure leaves one line of cause. When a done stage is made again, what its record said stays
beside it until then: what was once found (an outlier limit) is found once.

Nothing here guesses: no modification times, no listing of data files, no database beside the disk.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sae_cli import __version__
from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, read_json, sha256_of, sync_file, write_json
from sae_cli.store.key import canonical
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import Claim

FORMER = "former.json"
"""What done.json said before the stage was begun again; there until it is done again."""
_AGAIN = "do that stage again: saectl run SPEC --only KEY --force"


@dataclass(frozen=True)
class Done:
    """The record of a finished stage."""

    kind: str
    key: str
    slug: str
    saectl: str
    """Version of saectl that finished it."""
    outputs: dict[str, dict[str, Any]]
    """Relative path -> {sha256, bytes}."""
    sha256: str
    """One digest over `outputs`."""
    summary: dict[str, Any]
    seconds: float
    """Time spent, as told by the stage."""
    finished_at: float
    """Seconds since 1970."""
    host: str


def open_stage(stage: StageDir, spec: Mapping[str, Any]) -> None:
    """Write spec.json, or make sure that the one there says the same.

    `spec` is what the key is made from (fields that are no part of it may differ from run to
    run). Raises StoreError listing each path whose value differs.
    """
    canonical(dict(spec))  # refuses what would not survive JSON
    there = read_json(stage.spec)
    if there is None:
        with explained(stage.path, "create"):
            stage.path.mkdir(parents=True, exist_ok=True)
        write_json(stage.spec, dict(spec))
        return
    differing = _differences(there, dict(spec), "")
    if differing:
        raise StoreError(
            f"{stage.spec} is another spec's:\n" + "\n".join(f"  {line}" for line in differing),
            hint="the same key must mean the same spec: move this folder away, and report it",
        )


def record_done(
    held: Claim, outputs: Iterable[Path], summary: Mapping[str, Any], seconds: float
) -> Done:
    """Hash and sync `outputs` (files in the stage's folder), then write done.json, last.

    Raises Blocked when the claim was lost, StoreError when an output is missing or outside.
    """
    stage = held.stage
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(outputs):
        relative = str(inside(stage, path))
        digest = sha256_of(path)
        with explained(path, "sync"):
            sync_file(path)
            files[relative] = {"sha256": digest, "bytes": path.stat().st_size}
    done = Done(
        kind=stage.kind,
        key=stage.key,
        slug=stage.slug,
        saectl=__version__,
        outputs=files,
        sha256=_digest(files),
        summary=dict(summary),
        seconds=seconds,
        finished_at=time.time(),
        host=socket.gethostname(),
    )
    held.check()
    write_json(stage.done, asdict(done))
    stage.evicted.unlink(missing_ok=True)
    (stage.path / FORMER).unlink(missing_ok=True)
    return done


def keep_record(stage: StageDir) -> None:
    """Keep what done.json says beside it, before it goes: see `former_summary`. A damaged record
    tells nothing, and an earlier one that was kept stays. For the holder of the claim."""
    try:
        done = read_done(stage)
    except StoreError:
        return
    if done is not None:
        write_json(stage.path / FORMER, asdict(done))


def former_summary(stage: StageDir) -> dict[str, Any] | None:
    """What was found when the stage was last done, also while it is made again; None if never, or
    if that record is damaged."""
    for path in (stage.done, stage.path / FORMER):
        try:
            summary = (read_json(path) or {}).get("summary")
        except (StoreError, AttributeError):
            continue
        if isinstance(summary, dict):
            return summary
    return None


def record_failed(held: Claim, cause: str) -> None:
    """Leave the first line of `cause`, and where the log is. The next claim removes it."""
    line = (cause.strip() or "no cause given").splitlines()[0]
    held.check()
    write_json(
        held.stage.failed,
        {"cause": line, "log": str(held.stage.log), "failed_at": time.time()},
    )


def read_done(stage: StageDir) -> Done | None:
    """The record, or None when the stage was never done. Raises StoreError if damaged."""
    record = read_json(stage.done)
    if record is None:
        return None
    try:
        done = Done(**record)
    except TypeError as error:
        raise StoreError(f"{stage.done} is not a record this version reads: {error}") from error
    if _digest(done.outputs) != done.sha256:
        raise StoreError(f"{stage.done} is damaged: its outputs do not match its own digest")
    return done


def is_done(stage: StageDir) -> bool:
    """Whether the stage is done and its data is there. A damaged record says nothing."""
    try:
        return not stage.evicted.exists() and read_done(stage) is not None
    except StoreError:
        return False


def verify_done(stage: StageDir, *, freed: bool = False) -> Done:
    """Hash the recorded outputs again. Raises StoreError naming the first that differs.

    `freed`: data that was freed may be missing; what stays then is hashed all the same.
    """
    done, gone = read_done(stage), read_json(stage.evicted)
    if done is None or (gone is not None and not freed):
        raise StoreError(f"{stage} is not done, or its data is evicted: nothing to verify")
    paths = set() if gone is None else set(gone["paths"])
    for relative, record in done.outputs.items():
        if _below(relative, paths):
            continue
        path = stage.path / relative
        if not path.is_file():
            raise StoreError(f"{path} is missing, though {stage.done} lists it", hint=_AGAIN)
        if sha256_of(path) != record["sha256"]:
            raise StoreError(f"{path} does not match the sha256 in {stage.done}", hint=_AGAIN)
    return done


def _below(relative: str, folders: Collection[str]) -> bool:
    """Whether a path is one of these, or in one of these folders."""
    path = PurePosixPath(relative)
    return any(str(each) in folders for each in (path, *path.parents))


def inside(stage: StageDir, path: Path) -> Path:
    """`path` relative to the stage's folder. Raises StoreError when it lies outside, or is it."""
    try:
        relative = path.resolve().relative_to(stage.path.resolve())
    except ValueError:
        relative = Path()
    if not relative.parts:
        raise StoreError(f"{path} is not a file or folder inside {stage}")
    return relative


def _digest(outputs: Mapping[str, Mapping[str, Any]]) -> str:
    plain = {name: dict(record) for name, record in outputs.items()}
    return hashlib.sha256(canonical(plain).encode("ascii")).hexdigest()


def _differences(there: Any, here: Any, path: str) -> list[str]:
    """One line for each path at which two JSON values differ."""
    if isinstance(here, (list, tuple)) and isinstance(there, list):
        there, here = dict(enumerate(there)), dict(enumerate(here))
    if isinstance(there, dict) and isinstance(here, dict):
        lines: list[str] = []
        for name in [*there, *(name for name in here if name not in there)]:
            at = f"{path}.{name}" if path else str(name)
            if name not in here:
                lines.append(f"{at}: on disk {there[name]!r}, now absent")
            elif name not in there:
                lines.append(f"{at}: absent on disk, now {here[name]!r}")
            else:
                lines += _differences(there[name], here[name], at)
        return lines
    same = canonical(there) == canonical(here)
    return [] if same else [f"{path}: on disk {there!r}, now {here!r}"]
