"""A sweep's SAEs and metrics to one folder that can be handed out.

Every SAE folder loads in SAELens 6 as it stands; the suite and each SAE have a card made from the
records, and the suite a manifest with the sha256 of every file. Nothing is typed by hand, nothing
carries a time or a path of this machine, and what was written is read back and compared before the
stage says done. So it is with the files of other projects that `release.formats` asks for
(`stages.formats`). With what the manifest says besides, a folder that was copied away is enough to
make its cards again (`stages.audit`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sae_cli import __version__
from sae_cli.errors import StoreError
from sae_cli.sae.base import SAE
from sae_cli.spec.base import identity
from sae_cli.spec.stages import ReleaseSpec
from sae_cli.spec.work import CacheWork, ReleaseWork, sae_of
from sae_cli.stages.card import README, card, sae_card
from sae_cli.stages.card_entry import STUDIES, Entry
from sae_cli.stages.formats import Account, Released, export
from sae_cli.stages.metrics import DENSITY, METRICS
from sae_cli.stages.study import RECORD
from sae_cli.stages.task import Dep, Task
from sae_cli.store.acts.array import stats_of
from sae_cli.store.atomic import read_json, sha256_of, write_bytes, write_json
from sae_cli.store.layout import StageDir
from sae_cli.store.records.ledger import read_done
from sae_cli.store.releases import MANIFEST
from sae_cli.store.weights import CFG, load_sae, save_sae

MADE = ("device", "steps", "tokens")
"""Of a training's record: what the same training on the same device says again."""
OF_ONE_LAYER = frozenset(("digest", "file_layer", "label"))
"""What the imported SAEs of a set that spans layers differ in."""


def run(tasks: Sequence[Task]) -> None:
    """Write the release of each task. Raises StoreError when the read-back differs."""
    for task in tasks:
        _release(task)


def _release(task: Task) -> None:
    work = task.work
    assert isinstance(work, ReleaseWork)
    final, draft = task.out / work.name, task.scratch / work.name
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    found = {role.split("/")[1]: d for role, d in task.deps.items() if role.startswith("eval/")}
    evals = dict(sorted(found.items(), key=lambda e: (e[1].slug, e[0])))  # not the file's order
    task.report.begin(task.slug, len(evals), 0, "SAEs")
    entries: list[Entry] = []
    for i, (sae, score) in enumerate(evals.items()):
        train = task.deps[f"train/{sae}"]
        name = _folder_name(train, [e.folder for e in entries])
        studies = {
            role.split("/")[2]: dep
            for role, dep in sorted(task.deps.items())
            if role.startswith(f"study/{sae}/")
        }
        entries.append(_one(draft / name, name, train, score, studies, work.release))
        task.report.at(i + 1)
        if i + 1 < len(evals):
            task.leave("its start: a release begins again")
    accounts = _formats(task, draft, evals, [e.folder for e in entries])
    about = identity(work.release)
    for e in entries:
        text = sae_card(e, work.name, about, digests(draft / e.folder))
        write_bytes(draft / e.folder / README, text.encode())
    write_bytes(draft / README, card(work.name, about, entries, accounts).encode())
    files = sorted(p for p in draft.rglob("*") if p.is_file())
    listed = {
        p.relative_to(draft).as_posix(): {"sha256": sha256_of(p), "bytes": p.stat().st_size}
        for p in files
    }
    write_json(
        draft / MANIFEST,
        {
            "version": 1,
            "saectl": __version__,
            "suite": work.name,
            "key": task.key,
            "release": about,
            "saes": {e.folder: e.made for e in entries},
            **({"formats": {n: asdict(a) for n, a in accounts.items()}} if accounts else {}),
            "files": listed,
        },
    )
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    result = [f"{work.name}/{name}" for name in [*listed, MANIFEST]]
    task.finish(result, {"saes": len(entries), "path": work.name})


def _formats(
    task: Task, draft: Path, evals: Iterable[str], folders: Sequence[str]
) -> dict[str, Account]:
    """The other formats that are asked for, of the SAEs whose folders are written."""
    work = task.work
    assert isinstance(work, ReleaseWork)
    if not work.release.formats:
        return {}
    saes = []
    for sae, name in zip(evals, folders, strict=True):
        train, cache = sae_of(task.deps[f"train/{sae}"].work), task.deps[f"cache/{sae}"]
        assert isinstance(cache.work, CacheWork)
        place = {"model": identity(cache.work.model), "site": cache.work.site}
        sweep = {n: v for n, v in identity(train).items() if n not in OF_ONE_LAYER} | place
        stats = stats_of(StageDir(cache.path))
        saes.append(Released(name, draft / name, cache.work.layer, stats, sweep))
    leave = partial(task.leave, "its start: a release begins again")
    accounts = export(work.release.formats, saes, draft, leave)
    for form, account in accounts.items():
        for reason, count in account.reasons.items():
            task.report.note(f"not as {form}: {count} of {len(saes)} SAEs ({reason})")
    return accounts


def _folder_name(train: Dep, taken: Sequence[str]) -> str:
    return train.slug if train.slug not in taken else f"{train.slug}-{train.key}"


def digests(folder: Path) -> dict[str, str]:
    """sha256 of the files of an SAE's folder, its card apart."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != README)
    return {p.name: sha256_of(p) for p in files}


def _one(
    folder: Path, name: str, train: Dep, score: Dep, studies: Mapping[str, Dep], spec: ReleaseSpec
) -> Entry:
    """Write one SAE's folder and return what the cards say of it."""
    held = load_sae(train.path)
    metrics = read_json(score.path / METRICS)
    density = load_file(score.path / DENSITY)["density"]
    dtype: torch.dtype = getattr(torch, spec.dtype)
    sae = SAE.from_tensors(held.tensors, held.arch, held.k).to(dtype=dtype)
    cfg = json.loads(json.dumps(held.cfg)) | {"dtype": spec.dtype}
    values = {n: m["value"] for n, m in metrics["metrics"].items()}
    cfg["metadata"] |= {
        "l0": values["l0_v1"],
        "num_dead_features": int((density == 0).sum()),
    }
    own = cfg["metadata"]["saectl"]
    own["keys"]["eval"] = score.key
    own["metrics_dtype"] = held.cfg["dtype"]
    save_sae(folder, sae.tensors(), cfg, density)
    write_json(folder / METRICS, metrics)
    found = {study: {"key": d.key, **read_json(d.path / RECORD)} for study, d in studies.items()}
    if found:
        write_json(folder / STUDIES, found)
    back = load_sae(folder)
    for tensor, want in sae.tensors().items():
        if not torch.equal(back.tensors[tensor], want):
            raise StoreError(f"{folder / CFG}: {tensor} read back differs from what was written")
    done = read_done(StageDir(train.path))
    summary: dict[str, Any] = {} if done is None else done.summary
    return Entry(name, cfg, metrics, {n: summary[n] for n in MADE if n in summary}, found)
