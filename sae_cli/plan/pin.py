"""Pins what a name stands for: a hub revision to its commit, local files to their digest.

Pins enter the keys, so a moved branch or an edited file is new work and never a silent mixture.
Offline, a hub name resolves through the workspace's earlier pins or the hub's local cache; a name
that resolves through neither stays unpinned in a plan, and is pinned, or refused, by a run.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from sae_cli.errors import DataError
from sae_cli.plan.pin_imported import pinned, places
from sae_cli.spec.load import Sweep
from sae_cli.spec.models import cached_snapshot, local
from sae_cli.spec.stages import ModelSpec, Source
from sae_cli.spec.steering import PromptSet, SteeringStudy
from sae_cli.spec.studies import SAE_PROBES_HINT, SAE_PROBES_MISSING, ProbingTask, StudiesSpec
from sae_cli.store.atomic import explained, read_json, write_json
from sae_cli.store.digests import digest_of

_MEMO_FROM = 64 * 2**20
Pinned = TypeVar("Pinned", Source, ProbingTask, PromptSet)
Texts = TypeVar("Texts", ProbingTask, PromptSet)


class Pins:
    """The pins of one workspace, kept in `pins.json`."""

    def __init__(self, root: Path, *, online: bool) -> None:
        self._file = root / "pins.json"
        self._online = online
        self._pins: dict[str, str] = read_json(self._file) or {}
        self._fresh = False
        self.unpinned: list[str] = []

    def apply(self, sweep: Sweep) -> Sweep:
        """`sweep` with every model, source and imported SAE pinned as far as can be.

        Raises ModelError or DataError when online is asked for and the hub can't be reached.
        """
        models = {name: self._model(m) for name, m in sweep.models.items()}
        sources = tuple(self._source(s) for s in sweep.spec.data.sources)
        data = sweep.spec.data.model_copy(update={"sources": sources})
        studies = self._studies(sweep.spec.studies)
        if self._fresh:
            with explained(self._file.parent, "create"):
                self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, dict(sorted(self._pins.items())))
        cells = tuple(pinned(cell) for cell in sweep.cells)
        update = {"data": data, "studies": studies, **places(sweep.spec, cells)}
        spec = sweep.spec.model_copy(update=update)
        return replace(sweep, models=models, cells=cells, spec=spec)

    def _model(self, model: ModelSpec) -> ModelSpec:
        if model.builtin is not None:
            return model.model_copy(update={"digest": builtin_digest()})
        if model.path is not None:
            path = local(model.path).absolute()
            found = self._unchanged(path, model.digest)
            return model.model_copy(update={"path": str(path), "digest": found})
        assert model.hf is not None
        return model.model_copy(
            update={"revision": self._commit("model", model.hf, model.revision)}
        )

    def _studies(self, studies: StudiesSpec) -> StudiesSpec:
        update: dict[str, object] = {}
        if studies.probing is not None:
            tasks = tuple(
                self._source(_named(task)) if task.sae_probes is None else self._packaged(task)
                for task in studies.probing.tasks
            )
            update["probing"] = studies.probing.model_copy(update={"tasks": tasks})
        if studies.steering is not None:
            update["steering"] = self._prompts(studies.steering)
        return studies.model_copy(update=update)

    def _prompts(self, steering: SteeringStudy) -> SteeringStudy:
        update = {
            name: tuple(self._source(_named(each)) for each in some)
            for name, some in steering.sets.items()
        }
        return steering.model_copy(update=update)

    def _packaged(self, task: ProbingTask) -> ProbingTask:
        """Data sets of the package sae-probes are pinned to its version."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = f"sae-probes {version('sae-probes')}"
        except PackageNotFoundError:
            if self._online and task.digest is None:
                raise DataError(SAE_PROBES_MISSING, hint=SAE_PROBES_HINT) from None
            return task
        if task.digest not in (None, found) and self._online:
            raise DataError(
                f"this sweep was pinned to {task.digest}, and {found} is installed",
                hint=f"`pip install --no-deps {'=='.join(str(task.digest).split())}`, or run the "
                "sweep's own file to probe with what is there now.",
            )
        return task.model_copy(update={"digest": task.digest or found})

    def _source(self, source: Pinned) -> Pinned:
        if source.builtin is not None:
            return source.model_copy(update={"digest": text_digest()})
        if source.path is not None:
            path = local(source.path).absolute()
            found = self._unchanged(path, source.digest)
            return source.model_copy(update={"path": str(path), "digest": found})
        assert source.hf is not None
        return source.model_copy(
            update={"revision": self._commit("dataset", source.hf, source.revision)}
        )

    def _commit(
        self, kind: Literal["model", "dataset"], repo: str, revision: str | None
    ) -> str | None:
        if revision is not None and len(revision) == 40:
            return revision
        name = f"{kind}:{repo}@{revision or 'main'}"
        if name not in self._pins:
            commit = None
            if kind == "model":
                snapshot = cached_snapshot(repo, revision)
                commit = snapshot.name if snapshot else None
            if commit is None and self._online:
                commit = _ask_hub(kind, repo, revision)
            if commit is None:
                if name not in self.unpinned:
                    self.unpinned.append(name)
                return revision
            self._pins[name] = commit
            self._fresh = self._online
        return self._pins[name]

    def _unchanged(self, path: Path, pinned: str | None) -> str:
        """The digest at `path`. Raises DataError if it is not the one a sweep was pinned to.

        A look at a pinned sweep takes its pin's word: what was made of a text outlives the text.
        """
        if pinned is not None and not self._online:
            return pinned
        found = digest(path)
        if pinned is not None and pinned != found:
            raise DataError(
                f"{path} has changed since this sweep was pinned to it "
                f"(sha256 {pinned[:12]}..., now {found[:12]}...)",
                hint="run the sweep's own file to work on what is there now",
            )
        return found


def _named(task: Texts) -> Texts:
    """A data set in a file is called after it unless it has a name: results say it, so the key has
    to hold it, though not where the file lies."""
    if task.path is None or task.name is not None:
        return task
    stem = re.sub(r"[^\w.-]", "_", Path(task.path).stem)
    return task.model_copy(update={"name": stem})


def fetch_sizes(model: ModelSpec) -> None:
    """Bring a hub model's config.json, for sizes that are not known here. Raises ModelError."""
    from sae_cli.lm.hub import fetch_config
    from sae_cli.lm.refusal import model_refusal

    assert model.hf is not None
    trouble = fetch_config(model.hf, model.revision)
    if trouble is not None:
        raise model_refusal(model, trouble)


def _ask_hub(kind: Literal["model", "dataset"], repo: str, revision: str | None) -> str:
    from sae_cli.lm.hub import commit_of
    from sae_cli.lm.refusal import dataset_refusal, model_refusal

    commit, trouble = commit_of(repo, kind, revision)
    if commit is not None:
        return commit
    trouble = trouble or "refused"
    if kind == "model":
        raise model_refusal(ModelSpec(hf=repo, revision=revision), trouble)
    raise dataset_refusal(Source(hf=repo, revision=revision), trouble)


def builtin_digest() -> str:
    """That of the embedded model's files."""
    from sae_cli.lm.tiny import folder

    return digest(folder())


def text_digest() -> str:
    """What the embedded grammar says: another grammar is another source."""
    from sae_cli.lm.tiny.grammar import document

    said = hashlib.sha256()
    for i in range(64):
        said.update(document(0, i).text.encode())
    return said.hexdigest()


def digest(path: Path) -> str:
    """sha256 over a file, or over the names and contents of a folder's files (hidden ones apart).

    Large trees are remembered by path, size and time of change in the user's cache folder.
    Raises DataError if nothing is there.
    """
    if path.is_file():
        files = [path]
    else:
        files = sorted(
            f
            for f in path.rglob("*")
            if f.is_file() and not any(p.startswith(".") for p in f.relative_to(path).parts)
        )
    if not files:
        raise DataError(f"{path}: no files there")
    whole_name = path.suffix if path.is_file() else ""  # a file's ending says how it is read
    stats = [(whole_name or f.relative_to(path).as_posix(), f.stat()) for f in files]
    total = sum(s.st_size for _, s in stats)
    seen = hashlib.sha256(
        repr([(str(path.resolve()), n, s.st_size, s.st_mtime_ns) for n, s in stats]).encode()
    ).hexdigest()
    memo = _memo_file()
    known: dict[str, str] = {}
    if total >= _MEMO_FROM and memo.is_file():
        known = read_json(memo)
        if seen in known:
            return known[seen]
    found = digest_of((name, file) for (name, _), file in zip(stats, files, strict=True))
    if total >= _MEMO_FROM:
        with explained(memo.parent, "create"):
            memo.parent.mkdir(parents=True, exist_ok=True)
        write_json(memo, {**known, seen: found})
    return found


def _memo_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "saectl" / "digests.json"
