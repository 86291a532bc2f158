"""Opens a stage for work: claims it, empties it where it is to be done anew, settles its place.

Nothing is deleted before what brings it back was found to be readable, and nothing that a running
stage reads: the model and the text are loaded once, inputs are hashed, buckets are asked.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack

from sae_cli.errors import Blocked, StoreError
from sae_cli.plan.graph import Stage
from sae_cli.plan.place import folder, record_of, serves
from sae_cli.run.context import Context
from sae_cli.spec.base import identity
from sae_cli.spec.work import CacheWork
from sae_cli.stages.task import SHARED
from sae_cli.store.atomic import sync_folder
from sae_cli.store.key import canonical
from sae_cli.store.layout import StageDir
from sae_cli.store.records.claim import Claim, claim
from sae_cli.store.records.evict import begin_again, delete_remote
from sae_cli.store.records.ledger import open_stage, verify_done
from sae_cli.store.records.status import state
from sae_cli.store.records.users import readers

OPENING = "opening"
"""The part of a shared stage that is held while its records are begun."""
OPENING_PATIENCE = 5.0
"""Seconds that another opener is waited for: whoever starts with it shares all its arrays."""


def enter(stack: ExitStack, stage: Stage, place: StageDir, *, forced: bool) -> tuple[Claim, bool]:
    """Hold, until `stack` is closed, what opening a stage needs: all of it, or, of one that is
    shared, its beginning. Returns the claim, and whether it is of the whole.

    A shared one is held as a whole too where its data have to move. Raises Blocked.
    """
    if forced or stage.kind not in SHARED:
        return stack.enter_context(claim(place)), True
    deadline = time.monotonic() + OPENING_PATIENCE
    while _astray(stage, place):
        try:
            return stack.enter_context(claim(place)), True
        except Blocked:
            if time.monotonic() > deadline:
                break  # others are at work where it lies: work with them
        time.sleep(0.1)
    return stack.enter_context(claim(place, OPENING, patience=OPENING_PATIENCE)), False


def begin(stage: Stage, place: StageDir, context: Context, *, forced: bool, whole: bool) -> None:
    """Begin a stage's records, or go on with those that are there; for the holder of what `enter`
    claimed.

    Raises Blocked when a running stage reads what would be deleted, StoreError, ModelError or
    DataError when that could not be made again.
    """
    if forced or place.evicted.exists():
        check_sources(stage, context)
    if forced:
        _clear(stage, place, context)
        context.force.discard(stage.name)
    elif place.evicted.exists() and whole:
        _leave(stage, place, context)
    begin_again(place)
    open_stage(place, record_of(stage))
    work = stage.work
    if isinstance(work, CacheWork) and (whole or not _astray(stage, place)):
        from sae_cli.store.records.settle import settle  # numpy comes with it

        settle(place.path, work.cache.store, context.report.note)


def check_sources(stage: Stage, context: Context) -> None:
    """Find out, once a run, whether what a stage is made from can be read.

    Raises StoreError, ModelError or DataError when it can't.
    """
    verify_inputs([stage], context)
    capture = stage.deps["cache"].work if stage.kind in ("eval", "study") else None
    name = canonical([identity(stage.work), None if capture is None else identity(capture)])
    if isinstance(stage.work, CacheWork):
        name = canonical(["model", identity(stage.work.model)])
    if name not in context.readable:
        sources = importlib.import_module("sae_cli.stages.sources")
        sources.check(stage.work, capture, context.device)
        context.readable.add(name)


def verify_inputs(stages: Sequence[Stage], context: Context) -> None:
    """Hash what the stages are about to read, once a run. Raises StoreError naming what differs."""
    for stage in stages:
        for dep in stage.deps.values():
            place = folder(context.workspace, dep)
            status = state(place).status
            if not serves(status, dep, stage):
                raise StoreError(
                    f"{stage.name} needs {dep.name}, which is {status} now",
                    hint="run the same command again: it makes that first",
                )
            if dep.name not in context.verified:
                verify_done(place, freed=True)
                context.verified.add(dep.name)


def _clear(stage: Stage, place: StageDir, context: Context) -> None:
    """Empty a stage's folder: first that it is done, then the log of its chunks, then the rest."""
    reading = readers(place)
    if reading:
        raise Blocked(f"{stage.name} is being read by {', '.join(reading)}")
    _leave(stage, place, context)
    place.done.unlink(missing_ok=True)
    sync_folder(place.path)
    delete_remote(place)
    shutil.rmtree(place.part_commits, ignore_errors=True)
    for index in (place.commits, place.activations / "zarr.json"):
        index.unlink(missing_ok=True)
    sync_folder(place.path)
    for entry in place.path.iterdir():
        if entry == place.claim_lock or entry in place.claims:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _leave(stage: Stage, place: StageDir, context: Context) -> None:
    """Make sure that a stage's data can be deleted where they lie, and written where they will go;
    forget the old place, saying so, where that one can't be asked or is another's."""
    if isinstance(stage.work, CacheWork):
        from sae_cli.store.records.settle import check_anew  # numpy comes with it

        left = check_anew(place.path, stage.work.cache.store)
        if left is not None:
            context.report.note(left)
            (place.path / "data.json").unlink(missing_ok=True)
            sync_folder(place.path)


def _astray(stage: Stage, place: StageDir) -> bool:
    if not isinstance(stage.work, CacheWork):
        return False
    from sae_cli.store.records.settle import astray  # numpy comes with it

    return astray(place.path, stage.work.cache.store)
