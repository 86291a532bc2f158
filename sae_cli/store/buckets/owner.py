"""Whose the data in a bucket are: a small object beside them names the workspace that put them.

Claims live in a workspace, so two workspaces that share a bucket know nothing of each other; the
mark is what keeps them from deleting, or writing into, what is the other's. A finished array may
be read by all. A place without a mark is nobody's. A copy of a workspace is, to this, the same one.
"""

from __future__ import annotations

import json
import secrets
import socket
from pathlib import Path

from sae_cli.errors import StoreError
from sae_cli.store.atomic import explained, read_json, sync_folder, write_temp
from sae_cli.store.tables.files import Files

MARK = "owner.json"
WORKSPACE = "workspace.json"


def mark(url: str, stage: Path) -> str | None:
    """Say that what lies at `url` is of the workspace of `stage`, where nobody said so before.

    Returns None when it is this workspace's, else whose it is, as a person would name it.
    """
    from sae_cli.store.buckets.client import Bucket
    from sae_cli.store.buckets.files import ObjectFiles

    mine = {
        "workspace": _workspace(stage.parent.parent),
        "key": stage.name.rpartition("-")[2],
        "at": f"{socket.gethostname()}:{stage.parent.parent.absolute()}",
    }
    Bucket(url).create(MARK, json.dumps(mine).encode())
    return owner_of(ObjectFiles(url), stage)


def owner_of(files: Files, stage: Path) -> str | None:
    """The other workspace whose data lie there (host and folder); None: this one's, or nobody's.

    Raises StoreError when the mark can't be read.
    """
    data = files.get(MARK)
    if data is None:
        return None
    try:
        said = json.loads(data)
        name, at = said["workspace"], said["at"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{files.where(MARK)} is damaged: it does not say whose data these are",
            hint="delete it if they are yours",
        ) from error
    return None if name == _workspace(stage.parent.parent) else str(at)


def unmark(files: Files) -> None:
    """Forget whose the place is: nothing lies there any more."""
    files.delete(MARK)


def _workspace(root: Path) -> str:
    """The workspace's own name, made when it is first asked for."""
    path = root / WORKSPACE
    if not path.exists():
        with explained(path):
            temp = write_temp(path, json.dumps({"id": secrets.token_hex(16)}).encode())
            try:
                path.hardlink_to(temp)  # of two processes, the first one's stays
            except FileExistsError:
                pass
            finally:
                temp.unlink()
            sync_folder(root)
    try:
        return str(read_json(path)["id"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: it does not name the workspace") from error
