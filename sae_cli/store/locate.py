"""Where a stage's data lie: in its own folder, or in a bucket that `data.json` there names.

Records (spec, done, claims, logs) always stay in the workspace; only rows and their commits may
lie elsewhere. Where they lie is no part of a stage's identity: moving them changes no key.
"""

from __future__ import annotations

from pathlib import Path

from sae_cli.errors import StoreError
from sae_cli.store.atomic import read_json, write_json
from sae_cli.store.files import Files, LocalFiles

POINTER = "data.json"


def data_files(stage: Path) -> Files:
    """The place of a stage's data. Raises StoreError when its pointer is damaged."""
    url = data_url(stage)
    if url is None:
        return LocalFiles(stage)
    from sae_cli.store.objects import ObjectFiles

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


def send_data(stage: Path, root: str | None) -> None:
    """Say where a stage's data will go: below the url `root`, or, without one, its own folder.

    Data that are there already stay where they are.
    """
    begun = data_url(stage) is not None or (stage / "commits").is_dir()
    if root is not None and not begun and not (stage / "commits.jsonl").exists():
        stage.mkdir(parents=True, exist_ok=True)
        url = f"{root.rstrip('/')}/{stage.parent.name}/{stage.name}"
        write_json(stage / POINTER, {"url": url})
