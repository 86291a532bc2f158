"""Which prompts features are scored on, chosen on and judged on: apart, and each of them once.

Texts that are the same but for case, spaces and punctuation are one. One that is on two sides of a
split stays on the later side alone (test, then validation, then selection); one that is called both
harmful and harmless is dropped. Prompts are never left out for what the model makes of them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sae_cli.errors import DataError
from sae_cli.lm import sources
from sae_cli.lm.tiny import grammar
from sae_cli.lm.tiny.prompts import Split
from sae_cli.spec.stages import Source
from sae_cli.spec.steering import PromptPart, PromptSet, SteeringStudy
from sae_cli.studies.probe.texts import plain

PARTS: tuple[PromptPart, ...] = ("test", "validation", "selection")
"""In the order in which they are filled."""
FEWEST = 8
"""Prompts of a part, below which nothing is said."""
_GRAMMAR: dict[PromptPart, Split] = {"selection": "train", "validation": "val", "test": "test"}
_QUARTER = 4


@dataclass(frozen=True)
class Said:
    """One user message, and the data set that it is of."""

    text: str
    data: str
    part: PromptPart | None = None
    """The only part that it may go to."""

    @property
    def plain(self) -> str:
        """What makes two prompts the same: its words."""
        return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", self.text).casefold()))


Parts = dict[PromptPart, tuple[Said, ...]]


@dataclass(frozen=True)
class Prompts:
    """All that is asked."""

    harmful: Parts
    harmless: Parts
    matched: tuple[Said, ...]
    """Harmless, in the words of harmful ones; some of the harmless selection, or a set apart."""
    record: dict[str, Any] = field(default_factory=dict)
    """How many there are, how many were dropped, and the digest of all, as plain data."""


def gathered(spec: SteeringStudy, *, builtin: bool) -> Prompts:
    """The prompts that `spec` names; those of the grammar where it names none and the model is the
    `builtin` one. Raises DataError: unreadable, none named, or too few of a part."""
    harmful, harmless, matched = (
        list(_of_sets(name, some, spec.rows, builtin)) for name, some in spec.sets.items()
    )
    both = {p.plain for p in harmful} & {p.plain for p in harmless} - {""}
    wrong = sum(p.plain in both for p in [*harmful, *harmless])
    taken = {"", *both}
    parts: list[Parts] = []
    for name, some in (("harmful", harmful), ("harmless", harmless)):
        parts.append(_split(name, some, spec, taken))
    apart = _once(sorted(matched, key=_rank(spec.seed)), taken)[: spec.selection]
    given = len(harmful) + len(harmless)
    used = sum(len(p) for kind in parts for p in kind.values())
    record = {
        **{
            kind: {part: len(there[part]) for part in reversed(PARTS)}
            for kind, there in zip(("harmful", "harmless"), parts, strict=True)
        },
        "given": given,
        "called_both": wrong,
        "different": len({p.plain for p in [*harmful, *harmless]} - {"", *both}),
        "sha256": _digest([p for kind in parts for part in PARTS for p in kind[part]]),
        "used": used,
        "matched": "given" if apart else "of the harmless selection",
    }
    close = tuple(apart) or _alike(parts[1]["selection"], parts[0]["selection"])
    return Prompts(parts[0], parts[1], close, record)


def _of_sets(name: str, some: Sequence[PromptSet], rows: int, builtin: bool) -> Iterator[Said]:
    if not some and name != "matched":
        if not builtin:
            raise DataError(
                f"there are no {name} prompts: studies.steering.{name} names none, and only the "
                "embedded model has some of its own",
                hint=f"for example `{name}: [{{path: {name}.jsonl}}]`.",
            )
        some = (PromptSet(builtin="tiny"),)
    for each in some:
        yield from _grammar(name) if each.builtin is not None else _column(each, rows)


def _grammar(name: str) -> Iterator[Said]:
    for part, split in _GRAMMAR.items():
        for prompt in grammar.prompts(split, name == "harmful"):
            yield Said(prompt.text, "tiny", part)


def _column(some: PromptSet, rows: int) -> Iterator[Said]:
    source = Source(
        path=some.path, hf=some.hf, config=some.config, split=some.split, revision=some.revision
    )
    stem = str(some.config or some.hf) if some.hf is not None else Path(str(some.path)).stem
    name = some.name or re.sub(r"[^\w.-]+", "_", stem)
    texts = islice(sources.column(source, some.text), rows)
    if some.label is None:
        yield from (_said(where, text, some, name) for where, text in texts)
        return
    labels = sources.column(source, some.label)
    wanted = plain(some.positive) if some.positive is not None else ""
    for (where, text), (_, label) in zip(texts, labels, strict=False):
        if label is not None and plain(label) == wanted:
            yield _said(where, text, some, name)


def _said(where: str, text: Any, some: PromptSet, name: str) -> Said:
    if not isinstance(text, str):
        raise DataError(
            f"{where}: column {some.text!r} is of type {type(text).__name__}, and text is needed"
        )
    return Said(text.encode("utf-8", "replace").decode("utf-8").strip(), name, some.part)


def _split(name: str, some: Sequence[Said], spec: SteeringStudy, taken: set[str]) -> Parts:
    """Each part filled with what may only go there, then with a share of the rest; `taken` grows by
    what was used. The order is that of a hash of the contents: the same wherever they are read."""
    order = sorted(some, key=_rank(spec.seed))
    sizes: dict[PromptPart, int] = {part: getattr(spec, part) for part in PARTS}
    bound = {part: _once([p for p in order if p.part == part], taken) for part in PARTS}
    free = _once([p for p in order if p.part is None], taken)
    lacking = {part: max(0, sizes[part] - len(bound[part])) for part in PARTS}
    whole, at = sum(lacking.values()), 0
    found: Parts = {}
    for part in PARTS:
        count = min(lacking[part], len(free) * lacking[part] // max(1, whole))
        found[part] = tuple([*bound[part], *free[at : at + count]][: sizes[part]])
        at += count
        if len(found[part]) < FEWEST:
            raise DataError(
                f"there are {len(found[part])} {name} prompts for {part}, fewer than {FEWEST}",
                hint=f"name more under studies.steering.{name}.",
            )
    return found


def _once(some: Sequence[Said], taken: set[str]) -> list[Said]:
    """Those whose words nobody has yet."""
    found = []
    for each in some:
        if each.plain not in taken:
            taken.add(each.plain)
            found.append(each)
    return found


def _rank(seed: int) -> Any:
    return lambda said: hashlib.sha256(f"{seed} {said.plain}".encode()).digest()


def _alike(harmless: Sequence[Said], harmful: Sequence[Said]) -> tuple[Said, ...]:
    """The quarter whose words overlap most with those of some harmful prompt (Jaccard)."""
    others = [set(p.plain.split()) for p in harmful]

    def overlap(said: Said) -> float:
        own = set(said.plain.split())
        return max(len(own & other) / max(1, len(own | other)) for other in others)

    ranked = sorted(harmless, key=lambda said: (-overlap(said), said.plain))
    return tuple(ranked[: max(1, len(ranked) // _QUARTER)])


def _digest(some: Sequence[Said]) -> str:
    whole = hashlib.sha256()
    for each in some:
        whole.update(each.text.encode() + b"\0")
    return whole.hexdigest()
