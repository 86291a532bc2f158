"""Text to token blocks: packed once per tokenizer, shared by every site of the model.

Training and held-out documents part here and never meet again. A killed run goes on behind the
last committed chunk: the packer's state travels with every commit.
"""

from __future__ import annotations

from collections.abc import Sequence

from sae_cli.lm.load import load_tokenizer
from sae_cli.lm.pack import Packer, PackState
from sae_cli.lm.sources import source_name
from sae_cli.spec.work import TokensWork
from sae_cli.stages.task import Task
from sae_cli.store.blocks import BlockWriter

CHUNK_TOKENS = 2**18


def run(tasks: Sequence[Task]) -> None:
    """Pack the text of each task. Raises DataError when a source can't be read or runs dry."""
    for task in tasks:
        _pack(task)


def _pack(task: Task) -> None:
    work = task.work
    assert isinstance(work, TokensWork)
    data = work.data
    group = max(1, CHUNK_TOKENS // data.context)
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
    summary["sources"] = [
        {"name": source_name(source), "documents": part.documents, "tokens": part.tokens}
        for source, part in zip(data.sources, state.sources, strict=True)
    ]
    summary["tokens"] = {part: n * data.context for part, n in wanted.items()}
    task.finish([str(p.relative_to(task.out)) for p in records], summary)
