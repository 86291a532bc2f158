"""Makes room for what was damaged: what `verify --repair` does to a stage before it is run again.

`mend` puts back small files of which another copy tells the bytes; `withdraw_damage` makes the
damaged shards of an array uncommitted, so that running its stage again captures them and nothing
else. What the old record said stays in `repair.json` until it was compared with the new one, also
across a kill.
"""

from __future__ import annotations

import hashlib
import json
import time

from sae_cli.errors import StoreError
from sae_cli.store.atomic import read_json, sync_folder, write_bytes, write_json
from sae_cli.store.buckets.locate import data_files, data_url
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import read_done
from sae_cli.store.records.verify import REPAIR, Check
from sae_cli.store.tables.chunks import METADATA, encoded
from sae_cli.store.tables.files import Files
from sae_cli.store.tables.journal import withdraw


def mend(found: Check) -> bool:
    """Put back records of which there is another copy: in the bucket, in the stage's folder, or, of
    an array's metadata, in its group's. True if anything was; the stage is to be checked again.

    Raises Blocked while a process works on the stage.
    """
    broken: set[tuple[str | None, bool]] = {
        (f.record, f.bucket) for f in found.flaws if f.record is not None
    }
    stage, mended = found.stage, False
    if not broken or (stage.done.name, False) in broken:
        return False  # nothing tells what the bytes were
    files = data_files(stage.path)
    remote = data_url(stage.path) is not None
    with claim(stage):
        for name, bucket in sorted(broken, key=str):
            assert name is not None
            copy: bytes | None = None
            if bucket and (name, False) not in broken:
                copy = (stage.path / name).read_bytes()
            elif remote and not bucket and (name, True) not in broken:
                copy = files.get(name)
            if copy is None:
                copy = _from_group(stage, files, name, broken)
            if copy is None or not _is(stage, name, copy):
                continue
            if bucket:
                files.put(name, copy)
            else:
                write_bytes(stage.path / name, copy)
            mended = True
    return mended


def withdraw_damage(found: Check) -> None:
    """Make a cache stage undone as far as it is damaged; running it does that again, and only that.

    First the damaged shards go out of the commit log (with all that stood behind a torn line), then
    the records that finishing the stage writes anew, and done.json last. So a stage is never undone
    while damaged shards are committed: it would be finished with them. Killed midway, doing it
    again goes on. Raises Blocked while a process works on the stage.
    """
    stage = found.stage
    files = data_files(stage.path)
    with claim(stage):
        _keep_old_record(stage)
        withdraw(files, {f.shard for f in found.flaws if f.shard is not None})
        stage.stats.unlink(missing_ok=True)
        broken = {f.record for f in found.flaws if f.record is not None}
        arrays = {name for name in broken if name.endswith(f"/{METADATA}")}
        if arrays:  # the group too: the stage is begun again when it is not there
            arrays.add(f"{stage.activations.name}/{METADATA}")
        for name in sorted(arrays):
            files.delete(name)
            (stage.path / name).unlink(missing_ok=True)
        stage.done.unlink(missing_ok=True)
        sync_folder(stage.path)


def compared(stage: StageDir) -> bool | None:
    """Whether a repaired stage is, to the byte, what it was; None where the old record is lost.

    Forgets the old record.
    """
    note, done = stage.path / REPAIR, read_done(stage)
    old = read_json(note)
    note.unlink(missing_ok=True)
    if done is None or old is None or old["sha256"] is None:
        return None
    return bool(old["sha256"] == done.sha256)


def _from_group(
    stage: StageDir, files: Files, name: str, broken: set[tuple[str | None, bool]]
) -> bytes | None:
    """An array's metadata as its group repeats them, if the group is sound."""
    parts = name.split("/")
    group = f"{parts[0]}/{METADATA}"
    if len(parts) != 3 or parts[2] != METADATA or (group, False) in broken:
        return None
    data = files.get(group)
    try:
        there = json.loads(data or b"")["consolidated_metadata"]["metadata"]
        return encoded(there[parts[1]])
    except (ValueError, KeyError, TypeError):
        return None


def _is(stage: StageDir, name: str, data: bytes) -> bool:
    """Whether these are the bytes that done.json lists for a file."""
    done = read_done(stage)
    if done is None or name not in done.outputs:
        return False
    return bool(done.outputs[name]["sha256"] == hashlib.sha256(data).hexdigest())


def _keep_old_record(stage: StageDir) -> None:
    note = stage.path / REPAIR
    if note.exists():
        return  # of a repair that was killed: the first record is the one to compare with
    try:
        done = read_done(stage)
    except StoreError:
        done = None
    write_json(note, {"sha256": None if done is None else done.sha256, "begun_at": time.time()})
