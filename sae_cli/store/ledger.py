"""The records of a stage, in its folder: its spec, that it is done, why it failed, what was freed.

`done.json` is written last, after every output was hashed and synced; it alone means done. A
failure leaves one line of cause. Deleting a done stage's data is recorded before it begins, so
that "it was done, with these digests" and "its data is gone" both stay true on disk.

Nothing here guesses: no modification times, no listing of data files, no database beside the disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_cli import __version__
from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, read_json, sha256_of, sync_file, sync_folder, write_json
from sae_cli.store.claim import Claim, claim
from sae_cli.store.key import canonical
from sae_cli.store.layout import StageDir, size_of

if TYPE_CHECKING:
    from sae_cli.store.files import Files

_DELETERS = 16
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
        relative = str(_inside(stage, path))
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
    return done


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


def verify_done(stage: StageDir) -> Done:
    """Hash the recorded outputs again. Raises StoreError naming the first that differs."""
    done = read_done(stage)
    if done is None or stage.evicted.exists():
        raise StoreError(f"{stage} is not done, or its data is evicted: nothing to verify")
    for relative, record in done.outputs.items():
        path = stage.path / relative
        if not path.is_file():
            raise StoreError(f"{path} is missing, though {stage.done} lists it", hint=_AGAIN)
        if sha256_of(path) != record["sha256"]:
            raise StoreError(f"{path} does not match the sha256 in {stage.done}", hint=_AGAIN)
    return done


def evict(stage: StageDir, paths: Iterable[Path]) -> int:
    """Delete data of a done stage, in the order given, and say so first; returns the bytes freed.

    An index goes before what it lists, so that no moment shows an index of what is gone.
    Killed midway, the stage counts as evicted and doing it again finishes the deletion. Raises
    Blocked while someone works there, StoreError when it is not done or a path is a record.
    """
    doomed = list(dict.fromkeys(str(_inside(stage, path)) for path in paths))
    records = {path.name for path in (stage.done, stage.spec, stage.evicted, stage.claim)}
    if records & set(doomed):
        raise StoreError(f"{stage}: {', '.join(sorted(records & set(doomed)))} can't be evicted")
    with claim(stage):
        if read_done(stage) is None:
            raise StoreError(f"{stage} is not done: there is nothing to evict")
        before = (read_json(stage.evicted) or {"paths": []})["paths"]
        everything = list(dict.fromkeys([*before, *doomed]))
        write_json(stage.evicted, {"paths": everything, "evicted_at": time.time()})
        freed = finish_eviction(stage)
    return freed


def begin_again(stage: StageDir) -> None:
    """Before an evicted stage is done anew: finish a killed eviction, and then never again, so that
    what is made from now on stays. For the holder of the claim."""
    gone = read_json(stage.evicted)
    if gone is not None and gone["paths"]:
        finish_eviction(stage)
        write_json(stage.evicted, {**gone, "paths": []})


def finish_eviction(stage: StageDir) -> int:
    """Delete what evicted.json names and is still there, in its order; returns the bytes freed.

    Of a stage whose data lie in a bucket, each is deleted there first: the records in the folder
    tell what to look for, should this be killed.
    """
    freed = 0
    for relative in (read_json(stage.evicted) or {"paths": []})["paths"]:
        freed += delete_remote(stage, relative)
        freed += _delete(stage.path / relative)
        sync_folder(stage.path)
    return freed


def delete_remote(stage: StageDir, *names: str) -> int:
    """Delete data of a stage from the bucket that holds it; does nothing where none does.

    `names` are relative, of `activation_data` (default: all of it, in its order). Returns the bytes
    freed, as the record tells them (0 if it tells none). Raises StoreError when the bucket refuses.
    """
    if not (stage.path / "data.json").exists():
        return 0
    from sae_cli.store.locate import data_files

    files, freed = data_files(stage.path), 0
    for name in names or [path.name for path in stage.activation_data]:
        if name == stage.commits.name:
            files.delete(name)
        elif name == stage.part_commits.name:
            for log in files.logs(name):
                files.drop_log(log)
        elif name == stage.activations.name:
            done = read_done(stage)
            if _delete_arrays(files, stage) and done is not None:
                freed += int(done.summary.get("bytes", 0))
    return freed


def _delete_arrays(files: Files, stage: StageDir) -> bool:
    """Delete the bucket's group of arrays; whether there were any shards. The group's metadata go
    last: they tell which arrays there are."""
    group = f"{stage.activations.name}/zarr.json"
    arrays = {path.parent.name for path in stage.activations.glob("*/zarr.json")}
    with suppress(ValueError, KeyError, TypeError):  # damaged, or gone: the folder tells too
        arrays |= set(json.loads(files.get(group) or b"")["consolidated_metadata"]["metadata"])
    folders = [f"{stage.activations.name}/{array}" for array in sorted(arrays)]
    shards = [f"{at}/{name}" for at in folders for name in files.names(at) if name[:2] == "c."]
    with ThreadPoolExecutor(_DELETERS) as deleters:
        list(deleters.map(files.delete, shards))
    for name in [*(f"{at}/zarr.json" for at in folders), group]:
        files.delete(name)
    return bool(shards)


def _inside(stage: StageDir, path: Path) -> Path:
    """`path` relative to the stage's folder. Raises StoreError when it lies outside, or is it."""
    try:
        relative = path.resolve().relative_to(stage.path.resolve())
    except ValueError:
        relative = Path()
    if not relative.parts:
        raise StoreError(f"{path} is not a file or folder inside {stage}")
    return relative


def _delete(path: Path) -> int:
    """Delete a file or folder, if it is there; returns its bytes."""
    size = size_of(path)
    with explained(path, "delete"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return size


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
