"""Text to token blocks: packed once per tokenizer, shared by every site of the model.

Training and held-out documents part here and never meet again: before the stage is done, the
finished blocks are read again to show it. The record says how much each source gave to each part,
and how many tokens do not count, and why. A killed run goes on behind the
last committed chunk: the packer's state travels with every commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sae_cli.errors import DataError
from sae_cli.lm.load import load_tokenizer
from sae_cli.lm.pack import Packer, PackState
from sae_cli.lm.sources import source_name
from sae_cli.lm.split import check_split
from sae_cli.spec.stages import DataSpec
from sae_cli.spec.work import TokensWork
from sae_cli.stages.task import Task
from sae_cli.store.blocks import BlockReader, BlockWriter


def run(tasks: Sequence[Task]) -> None:
    """Pack the text of each task.

    Raises DataError: a source can't be read, runs dry, or has no token that counts, or a held-out
    document is found in the training blocks.
    """
    for task in tasks:
        _pack(task)


def _pack(task: Task) -> None:
    work = task.work
    assert isinstance(work, TokensWork)
    data = work.data
    group = data.chunk_blocks
    packer = Packer(data, load_tokenizer(work.model), group=group)
    wanted = {str(part): n for part, n in packer.wanted.items()}
    with BlockWriter(task.out, data.context, wanted, group) as writer:
        saved = writer.last_state()
        state = PackState.model_validate(saved) if saved is not None else None
        done = sum(state.blocks.values()) if state is not None else 0
        task.report.begin(
            task.slug, sum(wanted.values()) * data.context, done * data.context, "tokens"
        )
        for found in packer.blocks(state):
            state = found.state
            writer.write(
                found.part,
                found.tokens,
                found.document,
                found.position,
                found.reasons,
                state.model_dump(mode="json"),
            )
            done += len(found.tokens)
            task.report.at(done * data.context)
            if done < sum(wanted.values()):
                task.leave(f"{done * data.context:,} tokens")
        summary = writer.finish()
        records = writer.records()
    assert state is not None
    _require_counted(data, state)
    check_split(BlockReader(task.out))
    summary["sources"] = _sources(data, state)
    summary["reasons"] = state.reasons
    summary["tokens"] = {part: n * data.context for part, n in wanted.items()}
    task.finish([str(p.relative_to(task.out)) for p in records], summary)


def _sources(data: DataSpec, state: PackState) -> list[dict[str, Any]]:
    """What each source gave: documents, tokens, and tokens that count, of each part."""
    return [
        {
            "name": source_name(source),
            "documents": given.documents,
            "tokens": given.tokens,
            "counted": given.counted,
        }
        for source, given in zip(data.sources, state.sources, strict=True)
    ]


def _require_counted(data: DataSpec, state: PackState) -> None:
    """Raise DataError if a source gave tokens of which none counts for `data.train_on`."""
    for source, given in zip(data.sources, state.sources, strict=True):
        if data.train_on and sum(given.tokens.values()) and not sum(given.counted.values()):
            raise DataError(
                f"not one of the {sum(given.tokens.values()):,} tokens of source "
                f"{source_name(source)} counts: none of its messages is by "
                f"{' or '.join(data.train_on)}",
                hint="name roles that this source has in data.train_on, or leave the source out.",
            )
