"""Answers that were paid for, on disk, one file each, by the digest of what was asked.

A file is written the moment its answer is there and by a rename, so a run that is killed pays for
nothing twice but what was under way. No header is kept, and no key.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sae_cli.errors import StoreError
from sae_cli.spec.studies import JudgeSpec
from sae_cli.store.atomic import read_json, write_json
from sae_cli.studies.explain.judge.question import Answer, Question


class Kept:
    """The answers of a workspace."""

    def __init__(self, folder: Path, spec: JudgeSpec) -> None:
        self._folder, self._spec = folder / "judge", spec

    def get(self, question: Question) -> Answer | None:
        """What was answered before; None where nothing was, or its file is damaged."""
        try:
            found: Any = read_json(self._file(question))
            return None if found is None else Answer(**found["answer"])
        except (StoreError, KeyError, TypeError):
            return None

    def put(self, question: Question, answer: Answer) -> None:
        """Keep an answer."""
        file = self._file(question)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"asked": question.body(self._spec), "answer": asdict(answer)})

    def _file(self, question: Question) -> Path:
        key = question.key(self._spec)
        return self._folder / key[:2] / f"{key}.json"
