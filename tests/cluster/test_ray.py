"""A sweep on a real Ray cluster of two nodes, one of which is lost in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from realcommand import Disk, Saectl
from suiterun import SUITE, same

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster(saectl: Saectl) -> Iterator[tuple[Any, Any]]:
    """A cluster of two nodes with one core each, and the second of them."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    saectl.env |= {"RAY_ADDRESS": made.address}
    yield made, second
    made.shutdown()


def below(pid: int) -> list[int]:
    """The processes that a process started, and those that they started, and so on."""
    found: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    out = [pid]
    for one in out:
        out += [child for child, parent in found.items() if parent == one]
    return out


@pytest.mark.slow
def test_a_suite_on_ray_ends_like_a_local_run_though_a_node_was_lost(
    cluster: Any, saectl: Saectl, suite: Disk, processes: Any, until: Any
) -> None:
    made, second = cluster
    (raylet,) = second.all_processes["raylet"]
    run = saectl.start("run", SUITE, "--executor", "ray")
    processes.append(run)
    lost: list[int] = []

    def working_there() -> bool:
        lost[:] = below(raylet.process.pid)
        claims = [path.read_text() for path in saectl.store.glob("train/*/claim")]
        return any(f'"pid": {pid},' in text for pid in lost for text in claims)

    until(working_there)
    for pid in lost:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    made.remove_node(second, allow_graceful=False)
    said = run.communicate(timeout=600)[0]
    assert run.returncode == 0, said
    same(Disk(saectl.store), suite)
    assert len(ray.nodes() if ray.is_initialized() else [0]) >= 1


def test_an_address_at_which_nobody_answers_is_told(saectl: Saectl) -> None:
    said = saectl(
        "run", SUITE, "--executor", "ray", code=1, env={"RAY_ADDRESS": "127.0.0.1:9"}
    ).stderr
    assert "no Ray cluster answers at 127.0.0.1:9" in said and "ray start --head" in said
