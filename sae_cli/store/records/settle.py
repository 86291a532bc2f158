"""Settles where the data of a stage lie before it is worked on.

Data that are committed stay where they are. A place that holds nothing is left for the one that
the spec names now, and so is, when a stage is to be done anew, one that can't be asked; what is
left behind is told. What another workspace put into a bucket is read once it is finished, and
neither written to nor deleted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from sae_cli.errors import StoreError
from sae_cli.store.acts.array import declared
from sae_cli.store.buckets.locate import data_files, data_url, files_of, point, url_below
from sae_cli.store.buckets.owner import MARK, mark, owner_of
from sae_cli.store.layout import StageDir
from sae_cli.store.records.evict import delete_remote
from sae_cli.store.tables.files import Files, LocalFiles
from sae_cli.store.tables.journal import PARTS, read_entries

_NO_BUCKET = "there is no such bucket"
"""What `answers.explained` says of a place that is known to hold nothing."""
Note = Callable[[str], None]


def astray(stage: Path, root: str | None) -> bool:
    """Whether a stage's data are not where `root` sends them, as far as this disk tells. Committed
    rows in the stage's own folder are where they should be."""
    there, wanted = data_url(stage), url_below(root, stage)
    return there != wanted and not (there is None and read_entries(LocalFiles(stage)))


def settle(stage: Path, root: str | None, note: Note) -> None:
    """Send a stage's data to where `root` says, unless some are committed elsewhere. For the holder
    of the whole stage, or, where it is not `astray`, of its beginning; `note` is told what is left.

    Raises StoreError when the old place can't be asked what it holds (that there is no such bucket
    is an answer), or the place is another workspace's and not finished.
    """
    there, wanted = data_url(stage), url_below(root, stage)
    if astray(stage, root):
        if there is None:
            _drop(stage)
        elif _holds_any(stage, there, wanted, note):
            wanted = there
    elif there is None:
        return
    if wanted is not None:
        _join(wanted, stage, note)
    if wanted != there:
        point(stage, wanted)


def check_anew(stage: Path, root: str | None) -> str | None:
    """Whether a stage may be emptied and done anew below `root`: nothing is to be deleted before
    both places were found to answer.

    Returns None when what lies at the old place can be deleted, else why it must be left behind.
    Raises StoreError when the new place can't be used.
    """
    wanted = url_below(root, stage)
    if wanted is not None:
        files = files_of(stage, wanted)
        owner = owner_of(files, stage)
        if owner is not None:
            raise StoreError(
                f"{wanted} holds the data of another workspace ({owner}): they are not deleted",
                hint="delete them from there, or give this one a place of its own (cache.store)",
            )
        files.logs(PARTS)
    try:
        there = data_url(stage)
    except StoreError as error:
        return f"left what may lie in a bucket: {error.what}"
    if there in (None, wanted):
        return None
    try:
        files = files_of(stage, there)
        owner = owner_of(files, stage)
        files.logs(PARTS)
    except StoreError as error:
        return f"left what may lie at {there}: {error.what}"
    return None if owner is None else f"left {there} to the workspace whose it is ({owner})"


def _holds_any(stage: Path, there: str, wanted: str | None, note: Note) -> bool:
    """Whether anything is committed at the old place; what was only begun there is deleted."""
    try:
        files = data_files(stage)
        if read_entries(files):
            return True
        if owner_of(files, stage) is None:
            delete_remote(StageDir(stage))
        note(f"left {there}: nothing was committed there")
    except StoreError as error:
        if _NO_BUCKET not in error.what:
            raise StoreError(
                f"{error.what}; so it is not known whether activations lie there",
                hint=f"--force begins anew at {wanted or stage}, and leaves what lies there",
            ) from error
        note(f"left {there}: {_NO_BUCKET}")
    return False


def _join(url: str, stage: Path, note: Note) -> None:
    """Mark `url` as this workspace's; one that is another's may be read once it is finished."""
    owner = mark(url, stage)
    if owner is None:
        return
    if not _finished(files_of(stage, url)):
        raise StoreError(
            f"{url} is another workspace's ({owner}), and not finished",
            hint="run again when it is, or name another place (cache.store); if that workspace is "
            f"gone for good, delete {url}/{MARK}",
        )
    note(f"{url} holds what another workspace ({owner}) captured: it is read, and stays its own")


def _finished(files: Files) -> bool:
    rows = (declared(files) or {}).get("rows")
    return rows is not None and sum(entry["rows"] for entry in read_entries(files)) == rows


def _drop(stage: Path) -> None:
    """Delete what was begun in the folder, none of which is committed."""
    for path in StageDir(stage).activation_data:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
