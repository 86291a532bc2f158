"""Where a stage's data lie: in its own folder, or in a bucket that `data.json` there names.

Records (spec, done, claims, logs) always stay in the workspace; only rows and their commits may
lie elsewhere. Where they lie is no part of a stage's identity: moving them changes no key.
"""

from __future__ import annotations

from pathlib import Path

from sae_cli.errors import StoreError
from sae_cli.store.atomic import read_json, sync_folder, write_json
from sae_cli.store.tables.files import Files, LocalFiles

POINTER = "data.json"


def data_files(stage: Path) -> Files:
    """The place of a stage's data. Raises StoreError when its pointer is damaged."""
    return files_of(stage, data_url(stage))


def files_of(stage: Path, url: str | None) -> Files:
    """The files at `url`, or, without one, in the stage's own folder."""
    if url is None:
        return LocalFiles(stage)
    from sae_cli.store.buckets.files import ObjectFiles

    return ObjectFiles(url)


def data_url(stage: Path) -> str | None:
    """The bucket and prefix that hold a stage's data, or None when its folder does."""
    pointer = read_json(stage / POINTER)
    if pointer is None:
        return None
    url = pointer.get("url") if isinstance(pointer, dict) else None
    if not isinstance(url, str):
        raise StoreError(f"{stage / POINTER} is damaged: it names no url")
    return url


def url_below(root: str | None, stage: Path) -> str | None:
    """Where a stage's data go below the url `root`; None, its own folder, without one."""
    return None if root is None else f"{root.rstrip('/')}/{stage.parent.name}/{stage.name}"


def point(stage: Path, url: str | None) -> None:
    """Write where the data of a stage lie; None: in its own folder."""
    if url is None:
        (stage / POINTER).unlink(missing_ok=True)
        sync_folder(stage)
    else:
        write_json(stage / POINTER, {"url": url})


def send_data(stage: Path, root: str | None) -> None:
    """Say where a stage's data will go: below the url `root`, or, without one, its own folder.

    Data that are there already stay where they are.
    """
    begun = data_url(stage) is not None or (stage / "commits").is_dir()
    if root is not None and not begun and not (stage / "commits.jsonl").exists():
        stage.mkdir(parents=True, exist_ok=True)
        point(stage, url_below(root, stage))
