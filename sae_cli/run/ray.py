"""The pool of a Ray cluster: tasks that start `saectl run` wherever Ray finds room.

Ray is told what a job asks for (`resources`), and begins it again elsewhere when its node is lost.
The workspace must be seen by every node at the same path. The cluster is the one that `RAY_ADDRESS`
names; without it, Ray starts one on this machine.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_cli.errors import INTERRUPTED, SaectlError, UsageError
from sae_cli.plan.graph import Stage
from sae_cli.run.base import Result
from sae_cli.run.command import PROGRAM, TRIES, settled, unforced, words
from sae_cli.run.context import Context
from sae_cli.run.world import processes
from sae_cli.spec.resources import JobResources, Resources

_HANDED_ON = ("OMP_NUM_THREADS", "SAECTL_PATIENCE", "HF_HOME", "HF_HUB_OFFLINE")
"""Variables that a job sees as this process does. Secrets are the cluster's own to give."""
_KNOCK_S = 10.0


class Ray:
    """See `drive.Pool`."""

    def __init__(self, context: Context, resources: Resources, logs: Path) -> None:
        self.context, self.resources, self.logs = context, resources, logs.resolve()
        self.lost: Counter[str] = Counter()
        self._ray = _connected()
        self._running: list[_Task] = []

    @property
    def width(self) -> int:
        """See `drive.Pool`: as many as the cluster has GPUs now, or, without any, cores."""
        return max(2, int(self._there("GPU") or self._there("CPU")))

    def refuse_too_large(self, stages: Sequence[Stage]) -> None:
        """Raises UsageError for a stage that asks for more than any node of the cluster has."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for stage in stages:
            asked = {"CPU": float(self._cpus(stage)), "GPU": float(self._gpus(stage))}
            if not any(all(node.get(k, 0.0) >= n for k, n in asked.items()) for node in nodes):
                words = " and ".join(f"{n:g} {k}" for k, n in asked.items() if n)
                raise UsageError(
                    f"{stage.name} asks for {words}, and no node of the cluster has as much",
                    hint=f"lower resources.{stage.kind} in the spec, or train.parallel",
                )

    def _there(self, what: str) -> float:
        return float(self._ray.cluster_resources().get(what, 0.0))

    def _cpus(self, stage: Stage) -> int:
        asked: JobResources = getattr(self.resources, stage.kind)
        return asked.cpus or 1

    def _gpus(self, stage: Stage) -> int:
        """One, or one for each process, where the cluster has any and the spec says nothing."""
        asked: JobResources = getattr(self.resources, stage.kind)
        if asked.gpus is not None:
            return asked.gpus
        return processes(stage) if self._there("GPU") and stage.kind != "tokens" else 0

    def passes(self, stages: tuple[Stage, ...]) -> list[tuple[Stage, ...]]:
        """As they are: the process that gets them cuts them by the memory that it finds."""
        return unforced(stages, self.context)

    def start(self, stages: tuple[Stage, ...]) -> _Task | None:
        """Hand a job to Ray, which begins it when there is room."""
        asked: JobResources = getattr(self.resources, stages[0].kind)
        self._running = [task for task in self._running if not task.ended]
        same = sum(task.stages[0].kind == stages[0].kind for task in self._running)
        if len(self._running) >= self.width or same >= (asked.at_once or self.width):
            return None
        self.logs.mkdir(parents=True, exist_ok=True)
        task = _Task(stages, self, self._submit(stages, asked))
        self._running.append(task)
        return task

    def _submit(self, stages: Sequence[Stage], asked: JobResources) -> Any:
        options: dict[str, Any] = {
            "name": f"saectl {stages[0].kind} {stages[0].key}",
            "num_cpus": self._cpus(stages[0]),
            "num_gpus": self._gpus(stages[0]),
            "max_retries": TRIES,
        }
        if asked.memory is not None:
            options["memory"] = asked.memory
        call = self._ray.remote(**options)(_call)
        kept = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        command = [*PROGRAM, *words(stages, self.context)]
        return call.remote(command, kept, str(self.log(stages)))

    def log(self, stages: Sequence[Stage]) -> Path:
        """Where a job writes what it says."""
        return self.logs / f"{stages[0].kind}-{stages[0].key}.txt"

    def outcome(self, reference: Any) -> int | None:
        """The exit code of a task, None while it runs; a lost one counts as killed."""
        ready, _ = self._ray.wait([reference], timeout=0)
        if not ready:
            return None
        try:
            return int(self._ray.get(reference))
        except self._ray.exceptions.TaskCancelledError:
            return INTERRUPTED
        except self._ray.exceptions.RayError:
            return -signal.SIGKILL

    def cancel(self, reference: Any) -> None:
        """Tell a task to save and leave."""
        self._ray.cancel(reference)


class _Task:
    """See `drive.Running`."""

    def __init__(self, stages: tuple[Stage, ...], pool: Ray, reference: Any) -> None:
        self.stages, self.ended = stages, False
        self._pool, self._reference, self._began = pool, reference, time.time()

    def poll(self) -> list[Result] | None:
        """How each stage ended, read from disk."""
        code = self._pool.outcome(self._reference)
        if code is None:
            return None
        self.ended = True
        pool = self._pool
        return settled(
            self.stages, pool.context, self._began, code, pool.log(self.stages), pool.lost
        )

    def ask(self) -> None:
        """Ask it to save and leave."""
        self._pool.cancel(self._reference)


def _call(command: list[str], environment: dict[str, str], log: str) -> int:
    """Run the command in a task, and pass a cancellation on as a request to save."""
    with Path(log).open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **environment},
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            return process.wait()


def _connected() -> Any:
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as e:
        raise UsageError("ray is not installed", hint="pip install 'saectl[ray]'") from e
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False)
        except OSError as e:  # ConnectionError is one
            raise SaectlError(
                f"no Ray cluster answers at {address or 'this machine'}: {e}",
                hint="start one with `ray start --head`, or unset RAY_ADDRESS",
            ) from e
    return ray


def _knock(address: str | None) -> None:
    """Raises OSError where nobody listens: Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
