"""A `Source` of the spec becomes a numbered stream of documents that can start anywhere.

Document `i` of a source is the same on every machine: files of a folder are taken in the order of
their relative paths, a hub dataset in its own order. It starts over only when the source says
`repeat`, and never shuffles, cleans or filters; a row of the wrong type is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count as count_up
from pathlib import Path
from typing import Any

from sae_cli.errors import DataError
from sae_cli.lm import files
from sae_cli.spec.stages import Source

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One document: `text`, or chat `messages`; never both, never neither."""

    index: int
    """Its place in the source, counting on through repetitions."""
    round: int
    """How many times the source had been read whole before."""
    text: str | None
    messages: tuple[Message, ...] | None
    where: str
    """Where it came from, for an error: file and row."""


def source_name(source: Source) -> str:
    """What a person calls this source; for errors, so a local path is named in full."""
    if source.hf is not None:
        return source.hf + (f" ({source.config})" if source.config else "")
    return source.path or f"builtin {source.builtin}"


def documents(source: Source, *, seed: int, start: int = 0) -> Iterator[RawDocument]:
    """Documents `start`, `start + 1`, ... of `source`; endless if builtin or `repeat`.

    `seed` is the builtin grammar's, moved on so that 0 is not the text that the builtin model was
    trained on. Raises DataError: not there, unreachable, no such column, split or configuration,
    or a row whose value is no text (or no list of role and content).
    """
    if source.builtin is not None:
        yield from _builtin(seed, start)
        return
    index, done, skip = start, 0, start
    while True:
        seen = 0
        for where, value in _rows(source, skip):
            yield _document(source, index, done, where, value)
            index, seen = index + 1, seen + 1
        if not source.repeat:
            return
        if seen:
            done, skip = done + 1, 0
            continue
        total = sum(1 for _ in _rows(source, 0))
        if total == 0:
            raise DataError(f"source {source_name(source)} holds no documents")
        done, skip = done + skip // total, skip % total


def column(source: Source, name: str) -> Iterator[tuple[str, Any]]:
    """(where, value) of every row of the column `name` of a source that is no builtin, once.

    Of whatever type it is: a label need not be text. Raises DataError as `documents` does.
    """
    yield from _rows(source.model_copy(update={"text": name, "messages": None}), 0)


def _builtin(seed: int, start: int) -> Iterator[RawDocument]:
    from sae_cli.lm.tiny import grammar

    stream = seed + grammar.TRAIN_SEED + 1
    for index in count_up(start):
        made = grammar.document(stream, index)
        where = f"builtin document {index}"
        if made.messages is not None:
            chat = tuple(dict(message) for message in made.messages)
            yield RawDocument(index, 0, None, chat, where)
        else:
            yield RawDocument(index, 0, made.text, None, where)


def _rows(source: Source, skip: int) -> Iterator[tuple[str, Any]]:
    """(where, value of the column) of every row behind the first `skip`."""
    column = source.messages or source.text
    if source.hf is not None:
        from sae_cli.lm import hubdata

        yield from hubdata.stream(source, column, skip)
        return
    assert source.path is not None
    path = Path(source.path).expanduser()
    if not path.exists():
        raise DataError(
            f"source {source.path} does not exist",
            hint="give a file or folder that is there; a relative path starts where you are now.",
        )
    if _is_saved_dataset(path):
        from sae_cli.lm import hubdata

        yield from hubdata.saved(path, source.split, column, skip)
        return
    for file in _files(path):
        if source.messages is not None and file.suffix == ".txt":
            raise DataError(
                f"{file} is plain text and has no column {column!r}",
                hint="chat messages need a .jsonl, .json or .parquet file.",
            )
        if skip and (size := files.count(file, column)) <= skip:
            skip -= size
            continue
        for number, value in files.rows(file, column, skip):
            yield f"{file} row {number}", value
        skip = 0


def _is_saved_dataset(path: Path) -> bool:
    one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return one or (path / "dataset_dict.json").is_file()


def _files(path: Path) -> list[Path]:
    kinds = ", ".join(files.SUFFIXES)
    if path.is_file():
        if path.suffix not in files.SUFFIXES:
            raise DataError(f"{path} is not a kind of file that can be read ({kinds})")
        return [path]
    inside = [(p.relative_to(path), p) for p in path.rglob("*") if p.suffix in files.SUFFIXES]
    shown = [
        (relative.as_posix(), p)
        for relative, p in inside
        if p.is_file() and not any(part.startswith(".") for part in relative.parts)
    ]
    if not shown:
        raise DataError(f"folder {path} holds no text file ({kinds})")
    return [p for _, p in sorted(shown)]


def _document(source: Source, index: int, done: int, where: str, value: Any) -> RawDocument:
    if source.messages is not None:
        return RawDocument(index, done, None, _messages(value, where), where)
    if not isinstance(value, str):
        kind = "empty (null)" if value is None else f"of type {type(value).__name__}"
        raise DataError(
            f"{where}: column {source.text!r} is {kind}, and text is needed",
            hint="for chat messages say `messages: <column>`; else mend or drop that row.",
        )
    return RawDocument(index, done, _encodable(value), None, where)


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    """Messages as plain dictionaries; fields that a table filled with null are left out."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the messages are not a list of {{role, content}}")
    chat: list[Message] = []
    for message in value:
        good = isinstance(message, Mapping) and all(
            isinstance(message.get(field), str) for field in ("role", "content")
        )
        if not good:
            raise DataError(
                f"{where}: message {len(chat) + 1} has no role and content that are texts",
                hint="messages look like [{role: user, content: ...}, ...].",
            )
        plain = {key: part for key, part in message.items() if part is not None}
        chat.append(plain | {"content": _encodable(plain["content"])})
    return tuple(chat)


def _encodable(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, become `?`; any other text is left alone."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
