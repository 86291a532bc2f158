"""Trained SAEs to what one study finds of their latents (`sae_cli.studies`).

The SAEs of a site are studied together, as many at a time as fit into memory, so that they share
forwards. Each gets a `study.json`:

    study      its name
    figures    [{metric, value, reason, low, high, docs, slice, control, n, seed}]
    method     how it was done
    detail     what else it found: which latents, on which text

The fields of a figure are those of `sae_cli.studies.bench.Figure`; formulas stand in the module of
the study, and in `sae_cli.report.catalogue`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import torch
from transformers import PreTrainedModel

from sae_cli.errors import Interrupted, ModelError, SaectlError, StoreError
from sae_cli.lm.device import pick_device
from sae_cli.lm.load import load_model
from sae_cli.sae.base import SAE
from sae_cli.spec.work import CacheWork, StudyWork, TokensWork
from sae_cli.stages.eval_place import Site
from sae_cli.stages.grid_memory import free_memory
from sae_cli.stages.task import Dep, Task
from sae_cli.store.atomic import write_json
from sae_cli.store.blocks import BlockReader
from sae_cli.store.layout import ANSWERS
from sae_cli.store.weights import load_sae
from sae_cli.studies.bench import Bench, Figure, Findings

RECORD = "study.json"
BATCH_TOKENS = 4096
SHARE = 0.5
"""Of the memory that is free, what the SAEs of a group may take; the rest is for their latents."""


def run(tasks: Sequence[Task]) -> None:
    """Make one study of the SAEs of all tasks, which are of one model and text.

    An SAE or a site that can't be read, or studied, fails its tasks alone. Raises Interrupted when
    asked to stop: the SAEs of the groups that were finished are done.
    """
    first = tasks[0]
    work, capture = first.work, first.deps["cache"].work
    assert isinstance(work, StudyWork) and isinstance(capture, CacheWork)
    device = pick_device(first.device)
    model = load_model(capture.model, device)
    first.report.begin(work.study.study, len(tasks), 0, "SAEs")
    ended = 0
    for group in _groups(tasks, first.device):
        _study(group, model, device)
        ended += len(group)
        first.report.at(ended)
        if ended < len(tasks):
            first.leave("its start: a study begins again")


def _groups(tasks: Sequence[Task], device: str) -> Iterator[list[Task]]:
    """Tasks of one site each, in groups whose SAEs fit into memory."""
    on_device, on_host = free_memory(device)
    free = on_host if on_device is None else on_device
    room = math.inf if free is None else SHARE * free
    sites: dict[str, list[Task]] = {}
    for task in tasks:
        place = " ".join(task.deps[r].key for r in ("cache", "target") if r in task.deps)
        sites.setdefault(place, []).append(task)
    for some in sites.values():
        group: list[Task] = []
        taken = 0
        for task in some:
            need = sum(_bytes(dep) for _, dep in _read(task))
            if group and taken + need > room:
                yield group
                group, taken = [], 0
            group.append(task)
            taken += need
        yield group


def _read(task: Task) -> list[tuple[str, Dep]]:
    """The SAEs that a task reads: its own, then its twins, by their roles."""
    return [(r, d) for r, d in task.deps.items() if r == "train" or r.startswith("twin/")]


def _bytes(dep: Dep) -> int:
    return sum(p.stat().st_size for p in dep.path.glob("*.safetensors"))


def _study(group: Sequence[Task], model: PreTrainedModel, device: torch.device) -> None:
    first = group[0]
    work, capture = first.work, first.deps["cache"].work
    assert isinstance(work, StudyWork) and isinstance(capture, CacheWork)
    try:
        site = Site(first.deps["cache"], model, device)
        target = Site(first.deps["target"], model, device) if "target" in first.deps else None
    except (StoreError, ModelError) as error:
        for task in group:
            task.fail(error)
        return
    read = _loaded(group, site, device)
    sound = [task for task in group if all(dep.key in read for _, dep in _read(task))]
    if not sound:
        return
    first = sound[0]
    text = first.deps["tokens"].work
    assert isinstance(text, TokensWork)
    bench = Bench(
        model=model,
        spec=capture.model,
        tap=site.tap,
        mask=site.mask,
        limit=site.limit,
        mean=site.mean,
        blocks=BlockReader(first.deps["tokens"].path),
        batch_tokens=BATCH_TOKENS,
        device=device,
        saes={task.deps["train"].key: read[task.deps["train"].key] for task in sound},
        twins={
            task.deps["train"].key: tuple(read[d.key] for r, d in _read(task) if r != "train")
            for task in sound
        },
        scratch=first.scratch,
        cache=first.out.parents[1] / ANSWERS,
        leave=first.leave,
        note=first.report.note,
        data=text.data,
        target=None if target is None else (target.tap, target.limit),
        transcoders=frozenset(t.deps["train"].key for t in sound if "target" in t.deps),
    )
    study = importlib.import_module(f"sae_cli.studies.{work.study.study}")
    try:
        found: Mapping[str, Findings] = study.run(work.study, bench)
    except Interrupted:
        raise
    except SaectlError as error:
        for task in sound:
            task.fail(error)
        return
    for task in sound:
        _write(task, work.study.study, found[task.deps["train"].key])


def _loaded(group: Sequence[Task], site: Site, device: torch.device) -> dict[str, SAE]:
    """The SAEs that are read, by key; one that can't be fails the tasks that read it."""
    read: dict[str, SAE] = {}
    for task in group:
        try:
            for _, dep in _read(task):
                if dep.key not in read:
                    read[dep.key] = _load(dep, site, device)
        except StoreError as error:
            task.fail(error)
    return read


def _load(dep: Dep, site: Site, device: torch.device) -> SAE:
    held = load_sae(dep.path)
    sae = SAE.from_tensors(held.tensors, held.arch, held.k).to(device)
    if sae.d_in != site.tap.dim:
        raise StoreError(
            f"{dep.path}: an SAE of {sae.d_in} dimensions, where the model has {site.tap.dim}"
        )
    return sae


def _write(task: Task, study: str, found: Findings) -> None:
    figures = [_plain(each) for each in found.figures]
    write_json(
        task.out / RECORD,
        {"study": study, "figures": figures, "method": found.method, "detail": found.detail},
    )
    own = {f.metric: f.value for f in found.figures if f.control is None and f.slice == "kept"}
    task.finish([RECORD], {"metrics": own})


def _plain(figure: Figure) -> dict[str, object]:
    """A figure as JSON. What is not finite is a mistake of the study, not a number."""
    for value in (figure.value, figure.low, figure.high):
        assert value is None or math.isfinite(value), figure
    assert (figure.value is None) == (figure.reason is not None), figure
    return asdict(figure)
