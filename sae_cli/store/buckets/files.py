"""Files in a bucket: the interface of `tables.files` over S3 and its kin.

A shard is collected in memory (128 MiB at most) and put whole when it is finished, so that it can
be put again whatever happens on the way, and a killed writer leaves nothing behind. There are no
locks: who writes a log is settled by its numbered objects (`log`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sae_cli.errors import StoreError
from sae_cli.store.atomic import Buffer
from sae_cli.store.buckets.client import Bucket
from sae_cli.store.buckets.log import ObjectLog, drop_objects, read_object_log, read_object_logs
from sae_cli.store.tables.commits import Entry, Log
from sae_cli.store.tables.files import LOG, Bytes, Files, LocalFiles, Upload


def files_at(place: str | Path) -> Files:
    """The files of a folder, or of a bucket's url (s3://, gs://, az://)."""
    text = str(place)
    if "://" in text and not text.startswith("file://"):
        return ObjectFiles(text)
    return LocalFiles(Path(text.removeprefix("file://")))


class ObjectFiles:
    """Files below `s3://bucket/prefix` (or gs://, az://).

    `patience` is for how many seconds a store that does not answer is asked again; without it the
    variable SAECTL_PATIENCE says, or 180. Threads may share it; a forked process is refused.
    """

    def __init__(self, url: str, patience: float | None = None) -> None:
        self._bucket = Bucket(url, patience)

    def where(self, name: str = "") -> str:
        return self._bucket.where(name)

    def create(self, name: str) -> Upload:
        return _ObjectUpload(self._bucket, name)

    def put(self, name: str, data: Buffer) -> None:
        self._bucket.put(name, memoryview(data).cast("B"))

    def get(self, name: str) -> bytes | None:
        return self._bucket.get(name)

    def map(self, name: str, offset: int, size: int) -> Bytes:
        data = np.frombuffer(self._bucket.range(name, offset, size), np.uint8)
        if data.size < size:
            raise StoreError(f"{self.where(name)} is cut short: it ends before {offset + size}")
        return data.copy()  # what came can't be written to

    def size(self, name: str) -> int | None:
        return self._bucket.size(name)

    def names(self, folder: str) -> list[str]:
        return self._bucket.names(folder)

    def delete(self, name: str) -> None:
        self._bucket.delete(name)

    def tidy(self, folder: str, names: Iterable[str]) -> None:
        """Nothing to do: an object is whole or absent."""

    def log(self, name: str) -> Log:
        return ObjectLog(self._bucket, name + LOG)

    def read_log(self, name: str) -> list[Entry]:
        return read_object_log(self._bucket, name + LOG)

    def logs(self, folder: str) -> list[str]:
        # by their lines: some servers go on listing a folder that is empty
        found = {name.partition("/")[0] for name in self._bucket.tree(folder) if "/" in name}
        return sorted(f"{folder}/{log.removesuffix(LOG)}" for log in found if log.endswith(LOG))

    def read_logs(self, folder: str) -> list[Entry]:
        logs = read_object_logs(self._bucket, folder)
        return [entry for name in logs if name.endswith(LOG) for entry in logs[name]]

    def busy(self, name: str) -> bool:
        return False

    def drop_log(self, name: str) -> None:
        drop_objects(self._bucket, name + LOG)


class _ObjectUpload:
    """Bytes in memory, until they are put."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self._name = bucket, name
        self._data: bytearray | None = bytearray()

    def write(self, data: Buffer) -> None:
        assert self._data is not None
        self._data += memoryview(data).cast("B")

    def finish(self) -> None:
        assert self._data is not None
        self._bucket.put(self._name, self._data)
        self._data = None

    def abort(self) -> None:
        self._data = None
