"""Slurm: scripts to read before they are submitted, one array of jobs for each kind of stage.

An element of an array is `saectl run SPEC --only KEY...`, as any executor starts it. Arrays wait
for those before them to end, well or not: whether its own inputs are there, each job finds out from
disk. A job that reaches its time limit saves, is queued again, and goes on.

With a budget of disk, each wave has arrays of its own, and captures wait for the trainings of the
wave before, whose activations they free.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_cli.errors import SaectlError, UsageError
from sae_cli.plan.graph import Graph, Stage
from sae_cli.plan.jobs import coalesce
from sae_cli.plan.spread import parts, spread
from sae_cli.plan.waves import schedule
from sae_cli.run.command import PROGRAM, TRIES, sweep_words
from sae_cli.run.context import Context
from sae_cli.spec.resources import JobResources
from sae_cli.spec.work import KINDS, Kind

MOST_ELEMENTS = 1000
"""Of one array: Slurm's own default limit is 1001."""
SUBMIT = "submit.sh"


@dataclass(frozen=True)
class Step:
    """One array of jobs."""

    name: str
    """Of its script, and of its jobs."""
    title: str
    kind: Kind
    jobs: tuple[tuple[Stage, ...], ...]
    after: tuple[str, ...]
    """Names of the steps that end before it begins."""
    frees: bool = False
    """Whether its jobs first free what earlier waves have done with."""

    @property
    def script(self) -> str:
        """The file's name."""
        return f"{self.name}.sbatch"


def steps(stages: Sequence[Stage], graph: Graph, context: Context) -> list[Step]:
    """The arrays that do `stages`, in an order in which they can be submitted."""
    spec, found = graph.sweep.spec, list[Step]()
    parts_of = schedule(graph, stages, context.workspace)
    latest: dict[str, tuple[str, ...]] = {}

    def add(kind: Kind, part: Sequence[Stage], wave: str, after: Sequence[str]) -> None:
        asked: JobResources = getattr(spec.resources, kind)
        jobs = [job.stages for job in spread(coalesce(part), asked.at_once or len(part))]
        if kind == "cache":  # several jobs share a capture
            jobs = [j for j in jobs for _ in range(min(parts(j[0]), asked.at_once or 1))]
        names = []
        for start in range(0, len(jobs), MOST_ELEMENTS):
            names.append(f"{len(found) + 1}-{kind}{wave and '-' + wave}")
            title = f"{kind.capitalize()}{wave and ', ' + wave + ' of ' + str(len(parts_of))}"
            some = tuple(jobs[start : start + MOST_ELEMENTS])
            frees = kind == "cache" and spec.storage.budget is not None
            found.append(Step(names[-1], title, kind, some, tuple(dict.fromkeys(after)), frees))
        latest[kind] = tuple(names)

    for number, (_, part) in enumerate(parts_of, 1):
        label = f"wave{number}" if len(parts_of) > 1 else ""
        for kind in KINDS:
            mine = [s for s in part if s.kind == kind]
            before = {
                "tokens": (),
                "cache": (
                    *latest.get("tokens", ()),
                    *latest.get("train", latest.get("cache", ())),
                ),
                "train": (*latest.get("tokens", ()), *latest.get("cache", ())),
                "eval": latest.get("train", latest.get("cache", latest.get("tokens", ()))),
                "study": latest.get("train", latest.get("cache", latest.get("tokens", ()))),
                "release": tuple(
                    step.name for step in found if step.kind in ("train", "eval", "study")
                ),
            }[kind]
            if mine:
                add(kind, mine, label, before)
    return found


def render(stages: Sequence[Stage], graph: Graph, context: Context) -> tuple[Path, list[Step]]:
    """Write the scripts, and one that submits them; returns their folder and the arrays."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    spec = graph.sweep.spec
    arrays = steps(stages, graph, context)
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder = (context.workspace.run_dir(spec.name) / "slurm" / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    templates = Environment(
        loader=PackageLoader("sae_cli", "run"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell, of values that the spec has checked
    )
    template = templates.get_template("slurm.sbatch.j2")
    for step in arrays:
        asked: JobResources = getattr(spec.resources, step.kind)
        text = template.render(
            step=step,
            sweep=spec.name,
            asked=asked,
            folder=folder,
            options=_options(asked, spec.resources.grace_seconds),
            setup=spec.resources.setup,
            command=shlex.join([*PROGRAM, *sweep_words(context)]),
            free=shlex.join(_freeing(context)) if step.frees else "",
            here=Path.cwd(),
            tries=TRIES,
        )
        (folder / step.script).write_text(text, encoding="utf-8")
    (folder / SUBMIT).write_text(_submission(spec.name, arrays), encoding="utf-8")
    return folder, arrays


def submit(folder: Path) -> dict[str, str]:
    """Run the script that submits; returns the job id of each array, by the name of its step.

    Raises UsageError where there is no Slurm, SaectlError when it refuses.
    """
    if shutil.which("sbatch") is None:
        raise UsageError(
            "sbatch is not on the PATH: this machine does not submit to Slurm",
            hint=f"bash {folder / SUBMIT} on one that does (the scripts are there)",
        )
    ended = subprocess.run(
        ["bash", str(folder / SUBMIT)], capture_output=True, text=True, check=False
    )
    (folder / "submitted.txt").write_text(ended.stdout, encoding="utf-8")
    ids = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines() if " " in line)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or [f"exit {ended.returncode}"])[-1]
        there = f"; submitted were {', '.join(ids.values())}" if ids else ""
        raise SaectlError(
            f"Slurm refused a job: {said}{there}",
            hint=f"mend `resources` in the spec, or the scripts in {folder} and run {SUBMIT} there",
        )
    return ids


def _freeing(context: Context) -> list[str]:
    """The command that frees activations whose every SAE is trained."""
    root = str(context.workspace.root.resolve())
    return [*PROGRAM[:-1], "gc", *context.sweep, "--store", root, "--yes"]


def _options(asked: JobResources, grace: int) -> list[str]:
    """Lines for sbatch; what the spec leaves out is left to the cluster."""
    if asked.hours is not None and 3600 * asked.hours <= grace:
        raise UsageError(
            f"a time limit of {3600 * asked.hours:.0f} s leaves no time before "
            f"resources.grace_seconds ({grace} s) begin",
            hint="raise hours, or lower grace_seconds",
        )
    out = [f"--signal=B:USR1@{grace}"]
    if asked.hours is not None:
        out.append(f"--time={max(1, round(asked.hours * 60))}")
    if asked.gpus:
        out.append(f"--gres=gpu:{asked.gpus}")
    if asked.cpus is not None:
        out.append(f"--cpus-per-task={asked.cpus}")
    if asked.memory is not None:
        out.append(f"--mem={-(-asked.memory // 2**20)}M")
    if asked.partition is not None:
        out.append(f"--partition={asked.partition}")
    if asked.account is not None:
        out.append(f"--account={asked.account}")
    return [*out, *asked.options]


def _submission(sweep: str, arrays: Sequence[Step]) -> str:
    """The script that submits them in order, and says the id of each."""
    numbers = {step.name: f"job{i}" for i, step in enumerate(arrays, 1)}
    lines = [
        "#!/bin/bash",
        f"# Submits the sweep {sweep} to Slurm. Twice is harmless: each job claims what it does.",
        "set -euo pipefail",
        'cd "$(dirname "$0")"',
    ]
    for step in arrays:
        job = numbers[step.name]
        ids = ":".join(f"${{{numbers[name]}%%;*}}" for name in step.after)
        wait = f" --dependency=afterany:{ids}" if ids else ""
        lines.append(f"{job}=$(sbatch --parsable{wait} {shlex.quote(step.script)})")
        lines.append(f'echo "{step.name} ${{{job}%%;*}}"')
    return "\n".join(lines) + "\n"
