"""One bucket of an object store (S3 and what speaks it, Google, Azure), by way of `obstore`.

Every request is one attempt that this module sees the end of, and is made again, signed anew,
until the store answers or `patience` is over. So a server that is restarted, throttles or drops
the line costs time and nothing else. A PUT is whole or absent; nothing is uploaded in parts, for
parts are forgotten by some servers in a restart and paid for when a writer dies.

Credentials and the endpoint come from the environment alone. Refused: other schemes than s3, gs
and az, credentials in the url, plain http that nobody asked for.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sae_cli.errors import StoreError
from sae_cli.store.atomic import Buffer
from sae_cli.store.buckets.answers import LOGIN, explained, may_pass, no_bucket, reason, status_of

T = TypeVar("T")
PATIENCE = 180.0
"""Seconds that a request is tried for; the variable SAECTL_PATIENCE says another number."""
_SMALL = 8 * 2**20
_TIMEOUTS = {True: "60s", False: "900s"}
"""Of one attempt, by whether it moves up to _SMALL bytes: 140 kB/s are enough."""
_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_URL = re.compile(r"(s3|gs|az)://([A-Za-z0-9][A-Za-z0-9._-]*)(?:/(.*))?", re.DOTALL)
_WARN = logging.getLogger(__name__).warning


class Bucket:
    """The objects below one url, `s3://bucket/prefix`. Names are relative to it, with `/`.

    Threads may share it; processes must be spawned, not forked, for a fork would wait for ever
    for the threads that `obstore` has in its parent. Every failure is a StoreError.
    """

    _process: int | None = None
    """Where the first bucket was opened."""

    def __init__(self, url: str, patience: float | None = None) -> None:
        match = _URL.fullmatch(url)
        if match is None:
            raise StoreError(
                "the url of a bucket must be s3://BUCKET/PREFIX (or gs://, az://), and no more",
                hint="credentials and endpoint come from the environment",
            )
        self.scheme, self.name, prefix = match[1], match[2], match[3] or ""
        self.prefix = "/".join(part for part in prefix.split("/") if part)
        self.patience = _patience() if patience is None else patience
        try:
            import obstore
            from obstore.exceptions import AlreadyExistsError, BaseError
        except ImportError as error:
            raise StoreError(
                f"{self.where()} needs the package obstore",
                hint='install it with: pip install "saectl[s3]"',
            ) from error
        self._api, self._exists, self._failed = obstore, AlreadyExistsError, BaseError
        Bucket._process = Bucket._process or os.getpid()
        if self.scheme == "s3":
            self._check_endpoint()
        self._stores = {small: self._connect(small) for small in _TIMEOUTS}

    def where(self, name: str = "") -> str:
        """An object's (or the prefix's) url."""
        return "/".join(part for part in (f"{self.scheme}://{self.name}", self.key(name)) if part)

    def key(self, name: str) -> str:
        """An object's key in the bucket."""
        return "/".join(part for part in (self.prefix, name) if part)

    def put(self, name: str, data: Buffer | bytearray) -> None:
        """Write an object whole, over an older one."""
        store = self._store(len(data))
        self._ask(
            "write",
            name,
            lambda: self._api.put(store, self.key(name), data, use_multipart=False),
        )

    def create(self, name: str, data: bytes) -> bool:
        """Write an object where there is none; False where there is another.

        When an attempt of ours got no answer, an object with the same bytes counts as ours.
        """
        store, unsure = self._store(len(data)), False

        def attempt() -> bool:
            nonlocal unsure
            try:
                self._api.put(store, self.key(name), data, mode="create")
            except self._exists:
                found = self._get(name) if unsure else b""
                if found is None:
                    raise
                return unsure and found == data
            except self._failed:
                unsure = True
                raise
            return True

        return self._ask("write", name, attempt)

    def get(self, name: str) -> bytes | None:
        """An object's bytes, or None where there is none."""
        return self._ask("read", name, lambda: self._get(name))

    def range(self, name: str, offset: int, size: int) -> memoryview:
        """`size` (1 or more) bytes from `offset`, or what there is of them.

        Raises StoreError when there is no such object.
        """
        store = self._store(size)

        def attempt() -> memoryview:
            try:
                found = self._api.get_range(store, self.key(name), start=offset, length=size)
            except self._failed as error:
                if status_of(str(error)) == 416:
                    return memoryview(b"")
                raise
            return memoryview(found)

        return self._ask("read", name, attempt)

    def size(self, name: str) -> int | None:
        """Bytes of an object, or None where there is none."""

        def attempt() -> int | None:
            try:
                return int(self._api.head(self._store(0), self.key(name))["size"])
            except FileNotFoundError:  # or no bucket: only the answer to a GET says which
                found = self._get(name)
                return None if found is None else len(found)

        return self._ask("read", name, attempt)

    def names(self, folder: str) -> list[str]:
        """Base names of the objects directly in `folder`, sorted."""

        def attempt() -> list[str]:
            found = self._api.list_with_delimiter(self._store(0), self.key(folder))
            return sorted(entry["path"].rpartition("/")[2] for entry in found["objects"])

        return self._ask("list", folder, attempt)

    def tree(self, folder: str) -> dict[str, str | None]:
        """All objects below `folder`: their names, relative to it and sorted, each with what tells
        its bytes from any that were there before (None where the store has nothing like it)."""
        start = len(self.key(folder)) + 1

        def version(entry: Any) -> str | None:
            tag = entry["e_tag"]
            return None if tag is None else f"{tag} {entry['last_modified']}"

        def attempt() -> dict[str, str | None]:
            found = self._api.list(self._store(0), self.key(folder)).collect()
            return dict(sorted((entry["path"][start:], version(entry)) for entry in found))

        return self._ask("list", folder, attempt)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

        def attempt() -> None:
            try:
                self._api.delete(self._store(0), self.key(name))
            except FileNotFoundError as error:
                if no_bucket(str(error)):
                    raise

        self._ask("delete", name, attempt)

    def _get(self, name: str) -> bytes | None:
        try:
            return bytes(self._api.get(self._store(0), self.key(name)).bytes())
        except FileNotFoundError as error:
            if no_bucket(str(error)):
                raise
            return None

    def _ask(self, doing: str, name: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, as soon as the store answers it."""
        if os.getpid() != Bucket._process:
            raise StoreError(f"can't {doing} {self.where(name)} in a forked process: spawn it")
        first_failure, pause = None, _PAUSE
        while True:
            try:
                return attempt()
            except (self._failed, FileNotFoundError, ValueError) as error:
                text, now = str(error), time.monotonic()
            if first_failure is None:
                first_failure = now
            waited = now - first_failure
            if not may_pass(text) or waited + pause > self.patience:
                raise explained(doing, self.where(name), self.scheme, text, waited)
            if waited == 0:
                _WARN("can't %s %s now: %s", doing, self.where(name), reason(text))
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _check_endpoint(self) -> None:
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or "https://"
        )
        if not endpoint.lower().startswith(("http://", "https://")):
            raise StoreError("AWS_ENDPOINT_URL must begin with https:// (or http://)")
        allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "on", "yes", "y")
        if endpoint.lower().startswith("http://") and not allowed:
            raise StoreError(
                "AWS_ENDPOINT_URL is plain http: data would travel unencrypted",
                hint="set AWS_ALLOW_HTTP=true where that is meant",
            )

    def _store(self, size: int) -> Any:
        return self._stores[size <= _SMALL]

    def _connect(self, small: bool) -> Any:
        from obstore import store

        kinds: dict[str, Any] = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}
        config = {"timeout": _TIMEOUTS[small]}
        try:
            return kinds[self.scheme](self.name, config=config, retry_config={"max_retries": 0})
        except self._failed as error:
            raise StoreError(
                f"can't use {self.where()}: {reason(str(error))}",
                hint=f"set {LOGIN[self.scheme]}",
            ) from None


def _patience() -> float:
    said = os.environ.get("SAECTL_PATIENCE", "")
    try:
        return float(said) if said else PATIENCE
    except ValueError:
        raise StoreError(f"SAECTL_PATIENCE must be a number of seconds, not {said!r}") from None
