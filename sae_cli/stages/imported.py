"""Other projects' files to SAE folders of ours: what takes the place of a training.

Nothing is trained, and no activations are read: of the cache only the sizes and names of what the
SAE reads. The files must be those that the sweep was pinned to, and hold what it says of them. The
folder then says whose they are and what they were; what training gave them is not known, and none
of it is made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae_cli import __version__
from sae_cli.errors import SaectlError, StoreError
from sae_cli.lm.names import hook_name, model_name
from sae_cli.spec.base import identity
from sae_cli.spec.hooks import Spot, part_of, spot_of
from sae_cli.spec.imported import ImportedSae
from sae_cli.spec.work import CacheWork, ImportWork, TokensWork
from sae_cli.stages.task import Dep, Task
from sae_cli.store.acts.array import stats_of
from sae_cli.store.formats.coder import Coder
from sae_cli.store.formats.files import sae_digest
from sae_cli.store.formats.registry import READERS
from sae_cli.store.layout import StageDir
from sae_cli.store.records.ledger import read_done
from sae_cli.store.weights import CFG, WEIGHTS, config, save_sae

CARRIED = (
    "context_size", "prepend_bos", "training_architecture", "dataset_path", "neuronpedia_id",
)  # fmt: skip
"""Of what the files say of themselves in SAELens's words: what is copied into cfg.json."""


def run(tasks: Sequence[Task]) -> None:
    """Read the SAE of each task; one that can't be had fails its task, and no other's."""
    for task in tasks:
        try:
            _one(task)
        except SaectlError as error:
            task.fail(error)


def check(sae: ImportedSae, layer: int) -> Path:
    """The folder of an SAE in a cell of `layer`. Raises StoreError unless its files are those that
    the sweep was pinned to."""
    folder = Path(sae.path)
    found = sae_digest(sae.format, folder, sae.layer(layer))
    if found != sae.digest:
        raise StoreError(
            f"the files in {folder} are not those that this sweep was pinned to (sha256 "
            f"{str(sae.digest)[:12]}..., now {found[:12]}...)",
            hint="bring back the files, or import them as they are now: saectl import",
        )
    return folder


def _one(task: Task) -> None:
    work, capture = task.work, task.deps["cache"].work
    assert isinstance(work, ImportWork) and isinstance(capture, CacheWork)
    sae = work.sae
    folder = check(sae, capture.layer)
    task.report.begin(task.slug, 1, 0, "SAEs")
    layer = sae.layer(capture.layer)
    coder = READERS[sae.format].read(folder, layer)
    _as_said(coder, sae, folder)
    _fits(coder, task, folder)
    tensors = {name: t.to(torch.float32).contiguous() for name, t in coder.tensors.items()}
    save_sae(task.out, tensors, _describe(task, replace(coder, tensors=tensors)))
    task.finish([WEIGHTS, CFG], {"format": sae.format, "digest": sae.digest})
    task.report.at(1)


def _as_said(coder: Coder, sae: ImportedSae, folder: Path) -> None:
    """Raise StoreError unless the files hold what the sweep says."""
    found = {
        "width": coder.tensors["W_enc"].shape[1],
        "function": coder.arch,
        "k": coder.k,
        "skip": "W_skip" in coder.tensors,
    }
    if coder.transcodes != (sae.out_site is not None):
        said = "is a transcoder, and its cell has no out_site"
        raise StoreError(
            f"{folder} {said if coder.transcodes else 'is no transcoder: no out_site'}"
        )
    for name, value in found.items():
        if value != getattr(sae, name):
            raise StoreError(
                f"{folder} holds an SAE of {name} {value}, and the sweep says {getattr(sae, name)}",
                hint=f"write {name}: {value}, or let saectl import write the sweep",
            )


def _fits(coder: Coder, task: Task, folder: Path) -> None:
    """Raise StoreError where the SAE is of other dimensions than the site, or says that it is of
    another place than its cell."""
    work = task.work
    assert isinstance(work, ImportWork)
    read, predicted = task.deps["cache"], task.deps.get("target", task.deps["cache"])
    for dep, tensor, dim, does in (
        (read, "W_enc", 0, "reads"),
        (predicted, "W_dec", 1, "gives"),
    ):
        size, wanted = coder.tensors[tensor].shape[dim], len(stats_of(StageDir(dep.path)).mean)
        if size != wanted:
            raise StoreError(
                f"{folder} {does} {size} dimensions, and {dep.slug} has {wanted}: it belongs to "
                "another model or site"
            )
    assert isinstance(read.work, CacheWork)
    model, recorded = read.work.model, coder.record.get("model")
    reinit = recorded.get("reinit") if isinstance(recorded, dict) else None
    if reinit not in (None, model.reinit):
        raise StoreError(
            f"{folder} says that it is of {coder.metadata.get('model_name')}, a model of weights "
            f"drawn anew (reinit {reinit}); its cell reads {model_name(model)}",
            hint="let saectl import write the sweep: it judges the SAE on its own model",
        )
    keys = ("hook_name", "hook_name_out" if coder.transcodes else "hook_name")
    for dep, key in zip((read, predicted), keys, strict=True):
        assert isinstance(dep.work, CacheWork)
        layer, site = _said(coder, key)
        wanted_layer = work.sae.layer(dep.work.layer)
        if layer not in (None, wanted_layer) or site not in (None, dep.work.site):
            raise StoreError(
                f"{folder} says that it is of layer {layer}, {site or 'a site not named'}; its "
                f"cell says layer {wanted_layer}, {dep.work.site}"
            )
        for name in (str(coder.metadata.get(key)), folder.name):
            part, module = part_of(name), _module(dep)
            if part not in (None, part_of(module)):
                raise StoreError(
                    f"{folder} is of the module {name}, and {dep.work.site} of this model is that "
                    f"of {module}: something comes between"
                )


def _said(coder: Coder, key: str) -> Spot | tuple[int | None, None]:
    """The layer and site that the files name; None where they name none that is known here."""
    site = coder.record.get("site" if key == "hook_name" else "out_site")
    if site is not None and coder.layer is not None:
        return coder.layer, site
    return spot_of(str(coder.metadata.get(key))) or (coder.layer, None)


def _describe(task: Task, coder: Coder) -> dict[str, Any]:
    """cfg.json: the names of our sites, and where the SAE comes from."""
    work, text = task.work, task.deps["tokens"].work
    assert isinstance(work, ImportWork) and isinstance(text, TokensWork)
    cache, target = task.deps["cache"], task.deps.get("target")
    out = None if target is None else target.work
    assert isinstance(cache.work, CacheWork) and (out is None or isinstance(out, CacheWork))
    cfg = config(
        coder.tensors,
        arch=coder.arch,
        k=coder.k,
        model_name=model_name(cache.work.model),
        hook_name=hook_name(cache.work.layer, cache.work.site),
        hf_hook_name=_module(cache),
        hook_name_out=None if out is None else hook_name(out.layer, out.site),
        hf_hook_name_out=None if target is None else _module(target),
        context_size=text.data.context,
        provenance={
            "saectl": __version__,
            "keys": {"train": task.key, **{role: d.key for role, d in task.deps.items()}},
            "layer": cache.work.layer,
            "site": cache.work.site,
            **({} if out is None else {"out_site": out.site}),
            "model": identity(cache.work.model),
            "data": identity(text.data),
            "cache": identity(cache.work.cache),
            "mask": identity(cache.work.mask),
            "imported": {**identity(work.sae), **_former(coder)},
        },
    )
    for name in CARRIED:  # ours are of evaluation's text
        cfg["metadata"][name] = coder.metadata.get(name)
    return cfg


def _module(dep: Dep) -> str:
    done = read_done(StageDir(dep.path))
    if done is None:
        raise StoreError(f"{dep.path} is being made again: import when it is done")
    return str(done.summary["module"])


def _former(coder: Coder) -> dict[str, Any]:
    """What the files say of the SAE: the model, and saectl's own record, if it once was of us."""
    record = {n: coder.record[n] for n in ("saectl", "keys", "train") if n in coder.record}
    return {
        "model_name": coder.metadata.get("model_name"),
        **({"record": record} if record else {}),
    }
