"""One digest of several files: what a local model, text or SAE is pinned by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sae_cli.store.atomic import sha256_of


def digest_of(files: Iterable[tuple[str, Path]]) -> str:
    """sha256 over the names and contents of files, in their order, 64 hex digits. Raises StoreError
    when one can't be read."""
    whole = hashlib.sha256()
    for name, file in files:
        whole.update(f"{name}\0{sha256_of(file)}\n".encode())
    return whole.hexdigest()
