"""A judge asked about a world of words, in this process or, as a script, in one that may be killed.

python judged_world.py ADDRESS CACHE
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from explaining import World, world

from sae_cli.spec.studies import JudgeSpec
from sae_cli.studies.bench import Bench, Findings
from sae_cli.studies.explain.judge.study import judge

VARIABLE = "A_JUDGES_KEY"
RULES = ("on w3", "on w5 after w4")
QUESTIONS = 1 + 2 * 2
"""Of a latent: its explanation, and ten windows of each protocol, five a question."""


class Spelled:
    """The words of the world as a tokenizer decodes them."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(f"w{each - 10}" for each in ids)


def asked(
    address: str,
    cache: Path,
    *,
    rules: tuple[str, ...] = RULES,
    note: Callable[[str], None] = lambda line: None,
    leave: Callable[[str], None] = lambda where: None,
    **fields: Any,
) -> tuple[Findings, World, list[dict[str, Any]]]:
    """What a judge at `address` finds, its world, and the records of the latents."""
    made = world(*rules, examples=5, bins=5)
    units = made.units(Spelled())
    fields = {"max_tokens": 1_000_000, "shown": 5, "retries": 2, "timeout": 20} | fields
    by = JudgeSpec.model_validate(
        {"base_url": address, "model": "a-model", "api_key_env": VARIABLE} | fields
    )
    bench = cast(Bench, SimpleNamespace(tokenizer=Spelled(), cache=cache, note=note, leave=leave))
    out = Findings([])
    judge(made.spec, by, bench, made.train_text, made.heldout_text, {"k": units}, {"k": out})
    return out, made, [unit.record() for unit in units]


if __name__ == "__main__":
    asked(sys.argv[1], Path(sys.argv[2]), concurrency=1)
