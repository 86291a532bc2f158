"""What the grammar of the embedded model says of each token that counts.

A document of the built-in source is made again by its number, and its words are compared with the
tokens that were packed, one by one: a label that stands beside another word than it was written
for is an error, never a number. Only the built-in text has labels; other text is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.errors import ModelError
from sae_cli.lm.tiny import grammar
from sae_cli.spec.stages import DataSpec
from sae_cli.studies.bench import Bench, Split

Names = frozenset[str]
NOTHING: Names = frozenset()
FIELDS = ("role", "topic", "number", "name", "speaker")
"""Of a WordLabel: each value is a label of its own."""
YES = ("quoted", "harmful")
"""Those that are true or false."""


@dataclass(frozen=True)
class Marked:
    """Tokens that count, in the order of the text, what the site holds there, and their labels."""

    acts: Tensor
    """float32 `[tokens, d_in]`, on the device of the bench."""
    documents: NDArray[np.int64]
    """[tokens]: the number of each token's document."""
    names: list[Names]
    """The labels of each token, `field=value`."""

    def has(self, labels: list[str]) -> NDArray[np.bool_]:
        """bool `[tokens, labels]`."""
        at = {name: i for i, name in enumerate(labels)}
        found = np.zeros((len(self.names), len(labels)), np.bool_)
        for row, names in zip(found, self.names, strict=True):
            row[[at[name] for name in names if name in at]] = True
        return found

    def counts(self) -> dict[str, int]:
        """How many tokens each label is true of, by name."""
        found: dict[str, int] = {}
        for names in self.names:
            for name in names:
                found[name] = found.get(name, 0) + 1
        return dict(sorted(found.items()))


def need_grammar(bench: Bench, study: str) -> None:
    """Raise ModelError unless the model is the embedded one."""
    if bench.spec.builtin != "tiny":
        raise ModelError(
            f"studies.{study} needs the embedded model, `builtin: tiny`: only its language has "
            "a grammar that says what is true of each word",
            hint=f"leave studies.{study} out for other models.",
        )


def need_labels(data: DataSpec) -> None:
    """Raise ModelError unless every token's label is known: plain built-in text, and nothing
    else."""
    if [source.builtin for source in data.sources] != ["tiny"] or data.chat_template:
        raise ModelError(
            "studies.truth needs the built-in text alone, as it is: only its words have labels",
            hint="set `data.sources: [{builtin: tiny}]` and `data.chat_template: false`, or leave "
            "studies.truth out.",
        )


def marked(bench: Bench, split: Split, tokens: int | None) -> Marked:
    """The kept ones of the first `tokens` of a split (None: all).

    Raises ModelError where a document's words are not the tokens that stand in the blocks.
    """
    need_grammar(bench, "truth")
    need_labels(bench.data)
    labels = _labels(bench)
    acts, documents, names = [], [], list[Names]()
    start = 0
    for seen in bench.text(split, tokens):
        stop = start + len(seen.tokens)
        places = bench.blocks.position(split, start, stop)
        start = stop
        keep = seen.keep.cpu().numpy()
        ids = seen.tokens.cpu().numpy()
        found = [
            _of(labels, int(document), int(place), int(token))
            for document, place, token in zip(
                seen.documents.flat, places.flat, ids.flat, strict=True
            )
        ]
        names += [each for each, kept in zip(found, keep.flat, strict=True) if kept]
        documents.append(seen.documents[keep])
        acts.append(seen.acts[seen.keep].float())
        bench.leave("its start: a study begins again")
    width = bench.tap.dim
    return Marked(
        torch.cat(acts) if acts else torch.zeros(0, width, device=bench.device),
        np.concatenate(documents) if documents else np.zeros(0, np.int64),
        names,
    )


Labels = Callable[[int], tuple[list[int], list[Names]]]


def _labels(bench: Bench) -> Labels:
    """The token ids of a document by its number, and the labels of each; the end is none."""
    from sae_cli.lm.encode import end_of_text

    tokenizer, stream = bench.tokenizer, bench.data.seed + grammar.TRAIN_SEED + 1
    end = end_of_text(tokenizer)

    @lru_cache(maxsize=64)
    def of(number: int) -> tuple[list[int], list[Names]]:
        made = grammar.document(stream, number)
        ids = tokenizer.convert_tokens_to_ids([label.word for label in made.labels])
        return [*ids, end], [*(names_of(each, made.kind) for each in made.labels), NOTHING]

    return of


def _of(labels: Labels, document: int, place: int, token: int) -> Names:
    ids, names = labels(document)
    if place >= len(ids) or ids[place] != token:
        raise ModelError(
            f"token {place} of document {document} is {token} in the packed blocks, and the "
            "grammar has another word there",
            hint="the text was packed by another version of saectl: pack and capture it again.",
        )
    return names[place]


def names_of(label: grammar.WordLabel, kind: str) -> Names:
    """All that is true of a word, as `field=value`."""
    found = {f"{each}={value}" for each in FIELDS if (value := getattr(label, each)) is not None}
    found |= {f"{each}=yes" for each in YES if getattr(label, each)}
    if label.copy_of is not None:
        found.add("copy=yes")
    return frozenset({*found, f"kind={kind}"})
