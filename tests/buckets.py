"""What tests of buckets share: a server that is killed, and how a refusal reads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from s3server import S3Server

from sae_cli.errors import StoreError


@contextmanager
def killing(s3: S3Server, times: int, seed: int) -> Iterator[Callable[[], bool]]:
    """Kill the server at random moments and start it again; gives whether that still goes on."""
    rng = random.Random(seed)

    def kill() -> None:
        for _ in range(times):
            time.sleep(rng.uniform(0.1, 1.0))
            s3.kill()
            time.sleep(rng.uniform(0.0, 0.3))
            s3.start()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killer.is_alive
    finally:
        killer.join()


def body(k: int) -> bytes:
    """What object `k` holds: a pure function of k."""
    rng = np.random.default_rng(k)
    return rng.bytes(int(rng.integers(1, 2**21)))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        act()
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return str(caught.value)
