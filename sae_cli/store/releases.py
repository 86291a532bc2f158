"""A release's folder as its manifest lists it: read, hashed again, and what differs named.

It needs no workspace: a folder that was copied elsewhere is checked like one that was just made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from sae_cli.errors import StoreError
from sae_cli.store.atomic import read_json, sha256_of

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class File:
    """A file of a release."""

    name: str
    """Relative to the folder, with slashes."""
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Difference:
    """A file that is not as the manifest lists it."""

    file: str
    what: Literal["missing", "extra", "changed"]


@dataclass(frozen=True)
class Manifest:
    """What a release says of itself."""

    suite: str
    key: str
    saectl: str
    """Version of saectl that made it."""
    files: tuple[File, ...]
    """All but the manifest itself."""
    record: dict[str, Any]
    """The whole of it."""

    @property
    def bytes(self) -> int:
        """Of all these files."""
        return sum(f.bytes for f in self.files)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a release. Raises StoreError when there is none, or it can't be one."""
    path = folder / MANIFEST
    record = read_json(path)
    if record is None:
        raise StoreError(f"{folder} is no release: it has no {MANIFEST}")
    try:
        found = [File(n, f["sha256"], int(f["bytes"])) for n, f in record["files"].items()]
        manifest = Manifest(record["suite"], record["key"], record["saectl"], tuple(found), record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged: it lists no files of a release") from error
    for name in record.get("saes", ()):
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise StoreError(f"{path} is damaged: {name!r} is no folder's name")
    for file in manifest.files:
        pure = PurePosixPath(file.name)
        if pure.is_absolute() or ".." in pure.parts:
            raise StoreError(f"{path} is damaged: it lists {file.name!r}, outside its folder")
    return manifest


def differences(
    folder: Path, manifest: Manifest, on_bytes: Callable[[int], None] = lambda _: None
) -> list[Difference]:
    """Hash every file again, and name each that is missing, changed, or not listed. `on_bytes` is
    told how many bytes were hashed so far. A file that can't be read is changed."""
    found, hashed = list[Difference](), 0
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            found.append(Difference(file.name, "missing"))
            continue
        try:
            same = path.stat().st_size == file.bytes and sha256_of(path) == file.sha256
        except StoreError:
            same = False
        if not same:
            found.append(Difference(file.name, "changed"))
        hashed += file.bytes
        on_bytes(hashed)
    listed = {f.name for f in manifest.files} | {MANIFEST}
    there = sorted(p for p in folder.rglob("*") if not p.is_dir())
    names = (p.relative_to(folder).as_posix() for p in there)
    return found + [Difference(name, "extra") for name in names if name not in listed]
