"""The pool of one machine: `saectl run` beside `saectl run`, each with GPUs or cores of its own.

What a job says goes to a file of the sweep's view; how far it is, `saectl status` reads from disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sae_cli.errors import UsageError
from sae_cli.plan.graph import Stage
from sae_cli.plan.memory import need
from sae_cli.run.base import Result
from sae_cli.run.command import PROGRAM, settled, unforced, words
from sae_cli.run.context import Context
from sae_cli.run.world import processes
from sae_cli.spec.resources import JobResources, Resources
from sae_cli.store.records.space import host_memory


def gpus() -> list[str]:
    """The GPUs of this machine, as `CUDA_VISIBLE_DEVICES` names them; asked for without torch."""
    told_so = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told_so is not None:
        return [name for name in told_so.split(",") if name.strip() not in ("", "-1")]
    cards = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(cards.iterdir())))] if cards.is_dir() else []


class Slots:
    """See `drive.Pool`. `width` jobs at once."""

    def __init__(self, context: Context, resources: Resources, logs: Path, width: int) -> None:
        self.context, self.resources, self.logs, self.width = context, resources, logs, width
        self.lost: Counter[str] = Counter()
        """How often the process of a stage left no word."""
        self.memory = host_memory()
        self._cards = gpus() if context.device in ("auto", "cuda") else []
        self._running: list[_Job] = []

    def passes(self, stages: tuple[Stage, ...]) -> list[tuple[Stage, ...]]:
        """As they are: the process that gets them cuts them by the memory that it finds."""
        return unforced(stages, self.context)

    def start(self, stages: tuple[Stage, ...]) -> _Job | None:
        """Begin a job where slots and memory are left for it."""
        asked: JobResources = getattr(self.resources, stages[0].kind)
        wanted, memory = self._slots(stages[0]), self._memory(stages)
        self._running = [job for job in self._running if not job.ended]
        free = sorted(set(range(self.width)) - {n for job in self._running for n in job.slots})
        same = sum(job.stages[0].kind == stages[0].kind for job in self._running)
        taken = sum(job.memory for job in self._running)
        tight = bool(self._running) and self.memory is not None and taken + memory > self.memory
        if len(free) < wanted or same >= (asked.at_once or self.width) or tight:
            return None
        job = _Job(stages, self, free[:wanted], memory, self._environment(free[:wanted], asked))
        self._running.append(job)
        return job

    def refuse_too_large(self, stages: Sequence[Stage]) -> None:
        """Raises UsageError for a stage that takes more slots than there are."""
        for stage in stages:
            wanted = self._slots(stage)
            if wanted > self.width:
                raise UsageError(
                    f"{stage.name} takes {wanted} slots, and there are {self.width}",
                    hint=f"--jobs {wanted}, or lower resources.{stage.kind}.gpus or train.parallel",
                )

    def _slots(self, stage: Stage) -> int:
        """Slots that a job takes: one for each of its processes, and for each GPU it asks for."""
        asked: JobResources = getattr(self.resources, stage.kind)
        return max(asked.gpus or 1 if self._cards else 1, processes(stage))

    def _memory(self, stages: Sequence[Stage]) -> int:
        """Bytes of the machine's memory that a training takes, at most."""
        found = need(stages) if stages[0].kind == "train" else None
        if found is None:
            return 0
        return found.host if self._cards else min(found.together, self._share())

    def _share(self) -> int:
        """Bytes of memory that a job may take, where the CPU is the device."""
        if self.context.memory is not None:
            return self.context.memory
        return (self.memory or sys.maxsize) * 9 // 10 // self.width

    def _environment(self, slots: Sequence[int], asked: JobResources) -> dict[str, str]:
        """What tells a job which GPUs, or how many cores, are its own."""
        cores = asked.cpus or max(1, (os.cpu_count() or 1) * len(slots) // self.width)
        out = {"OMP_NUM_THREADS": str(cores), **os.environ}
        if self._cards:
            mine = [self._cards[n * len(self._cards) // self.width] for n in slots]
            out["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(mine))
        return out

    def command(self, stages: Sequence[Stage]) -> list[str]:
        """What a job is started with."""
        limit = [] if self._cards or self.memory is None else ["--set", f"memory={self._share()}"]
        return [*PROGRAM, *words(stages, self.context), *limit]


class _Job:
    """See `drive.Running`."""

    def __init__(
        self,
        stages: tuple[Stage, ...],
        pool: Slots,
        slots: Sequence[int],
        memory: int,
        environment: dict[str, str],
    ) -> None:
        self.stages, self.slots, self.memory, self.ended = stages, slots, memory, False
        self._pool, self._began = pool, time.time()
        pool.logs.mkdir(parents=True, exist_ok=True)
        self._log = pool.logs / f"{stages[0].kind}-{stages[0].key}.txt"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                pool.command(stages),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is passed on once, as a request to save
                env=environment,
            )

    def poll(self) -> list[Result] | None:
        """How each stage ended, read from disk."""
        code = self._process.poll()
        if code is None:
            return None
        self.ended = True
        pool = self._pool
        return settled(self.stages, pool.context, self._began, code, self._log, pool.lost)

    def ask(self) -> None:
        """Ask it to save and leave."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
