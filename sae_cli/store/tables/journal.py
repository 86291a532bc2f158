"""The commits of a stage, whoever wrote them: one joined log, and one for each part under way.

A *part* is a range of shards that one writer owns; its log `commits/<first>-<end>` is locked by
it. Logs that dead writers left count, also of parts of another size that overlap: a shard is the
same whoever made it. When all parts are written their lines are joined, in the order of the
shards, into `commits.jsonl`: the same bytes whether one writer made them or twenty. Both places
count, so a kill while joining loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from sae_cli.errors import StoreError
from sae_cli.store.tables.commits import Entry, Log, encode, parse
from sae_cli.store.tables.files import Files

JOINED = "commits.jsonl"
PARTS = "commits"


def read_entries(files: Files) -> list[Entry]:
    """Every commit, once each, by table and shard.

    The parts' logs are read first: one that is dropped in the meantime is joined by then.
    """
    found: dict[tuple[str, int], Entry] = {}
    for entry in [*files.read_logs(PARTS), *_joined(files)]:
        found.setdefault((entry["table"], entry["k"]), entry)
    return [found[key] for key in sorted(found)]


def open_part(files: Files, part: range) -> Log:
    """The log of a part, for its writer alone.

    Raises StoreError when another process writes here, or in a part that overlaps this one. In a
    bucket that is not known: there the claim of the part keeps others out.
    """
    name = f"{PARTS}/{part.start:06d}-{part.stop:06d}"
    for other in files.logs(PARTS):
        first, _, end = PurePosixPath(other).name.partition("-")
        overlaps = int(first) < part.stop and part.start < int(end)
        if other != name and overlaps and files.busy(other):
            raise StoreError(
                f"another process is writing {files.where(other)}, which overlaps shards "
                f"{part.start} to {part.stop - 1}",
                hint="wait for it, or end it; its committed shards are kept",
            )
    return files.log(name)


def join(files: Files, entries: Iterable[Entry]) -> None:
    """Put all commits into the joined log, and drop the parts'."""
    files.put(JOINED, b"".join(encode(entry) for entry in entries))
    for name in files.logs(PARTS):
        files.drop_log(name)


def withdraw(files: Files, shards: Iterable[tuple[str, int]]) -> None:
    """Make shards (table, number) uncommitted, so that the next writer makes them anew."""
    gone = set(shards)
    join(files, [e for e in read_entries(files) if (e["table"], e["k"]) not in gone])


def _joined(files: Files) -> list[Entry]:
    data = files.get(JOINED)
    return [] if data is None else parse(data)[0]
