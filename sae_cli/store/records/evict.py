"""Deletes the data of a stage, here or in its bucket, and says so on disk before it begins.

"It was done, with these digests" and "its data is gone" both stay true whatever moment a kill
picks. Refused: what is no data, a stage that someone works on or reads, and what another workspace
put into a bucket.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sae_cli.errors import Blocked, StoreError
from sae_cli.store.atomic import explained, read_json, sync_folder, write_json
from sae_cli.store.layout import StageDir, size_of
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import inside, keep_record, read_done
from sae_cli.store.records.users import readers

if TYPE_CHECKING:
    from sae_cli.store.tables.files import Files

_DELETERS = 16


def evict(stage: StageDir, paths: Iterable[Path]) -> int:
    """Delete data of a done stage, in the order given, and say so first; returns the bytes freed.

    An index goes before what it lists, so that no moment shows an index of what is gone.
    Killed midway, the stage counts as evicted and doing it again finishes the deletion.

    Raises Blocked while someone works there or a running training reads it, StoreError when it is
    not done, a path is a record, or the data are another workspace's.
    """
    doomed = list(dict.fromkeys(str(inside(stage, path)) for path in paths))
    records = {path.name for path in (stage.done, stage.spec, stage.evicted, stage.claim)}
    if records & set(doomed):
        raise StoreError(f"{stage}: {', '.join(sorted(records & set(doomed)))} can't be evicted")
    with claim(stage):
        if read_done(stage) is None:
            raise StoreError(f"{stage} is not done: there is nothing to evict")
        refuse_foreign(stage)
        before = read_json(stage.evicted)
        everything = list(dict.fromkeys([*(before or {"paths": []})["paths"], *doomed]))
        write_json(stage.evicted, {"paths": everything, "evicted_at": time.time()})
        # Who begins to read from now on sees the eviction; who began before is seen here.
        reading = readers(stage, ["train"])
        if reading and before is None:
            stage.evicted.unlink()
            raise Blocked(f"{stage} is being read by {reading[0]}", hint="wait for it, or end it")
        return finish_eviction(stage)


def half_evicted(stage: StageDir) -> bool:
    """Whether data is still there that evicted.json says is gone: who deleted it is at it, or was
    killed. `evict` finishes it."""
    gone = read_json(stage.evicted)
    return gone is not None and any((stage.path / name).exists() for name in gone["paths"])


def begin_again(stage: StageDir) -> None:
    """Before an evicted stage is done anew: finish a killed eviction, then put its record aside.

    From now on the stage is an unfinished one like any other, and what is made stays. For the
    holder of the claim.
    """
    if read_json(stage.evicted) is None:
        return
    finish_eviction(stage)
    keep_record(stage)
    stage.done.unlink(missing_ok=True)
    sync_folder(stage.path)
    stage.evicted.unlink()


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
    freed, as the record tells them (0 if it tells none). Raises StoreError when the bucket refuses,
    or another workspace put them there.
    """
    if not (stage.path / "data.json").exists():
        return 0
    from sae_cli.store.buckets.locate import data_files
    from sae_cli.store.buckets.owner import unmark

    refuse_foreign(stage)
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
            unmark(files)  # last: until here nobody else may begin there
    return freed


def refuse_foreign(stage: StageDir) -> None:
    """Raise StoreError when the stage's data lie in a bucket and another workspace put them there:
    they are that one's to delete."""
    if not (stage.path / "data.json").exists():
        return
    from sae_cli.store.buckets.locate import data_files
    from sae_cli.store.buckets.owner import owner_of

    files = data_files(stage.path)
    owner = owner_of(files, stage.path)
    if owner is not None:
        raise StoreError(
            f"{files.where()} holds the data of another workspace ({owner}): they are not deleted",
            hint="delete them from there, or give this one a place of its own (cache.store)",
        )


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


def _delete(path: Path) -> int:
    """Delete a file or folder, if it is there; returns its bytes."""
    size = size_of(path)
    with explained(path, "delete"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return size
