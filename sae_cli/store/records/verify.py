"""Hashes what a stage committed and recorded again, and names what differs.

`look` lists what there is to hash, `check` hashes it with as many threads as wanted (hashing leaves
the interpreter free), each shard against its line of the commit log and each recorded file against
done.json. Nothing is changed by that. A file that can't be read is damage like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from sae_cli.errors import StoreError
from sae_cli.store.atomic import sha256_of
from sae_cli.store.buckets.locate import data_files, data_url
from sae_cli.store.layout import StageDir, size_of
from sae_cli.store.records.ledger import read_done
from sae_cli.store.records.status import Status, state
from sae_cli.store.tables.commits import Entry
from sae_cli.store.tables.files import LocalFiles
from sae_cli.store.tables.journal import JOINED, read_entries
from sae_cli.store.tables.reader import Damage, TableReader
from sae_cli.store.tables.reread import ReadFiles

REPAIR = "repair.json"
"""What a stage's record said before it was repaired; there until both were compared."""
TABLES = ("tokens", "cache")
"""Kinds of stages that hold tables."""


@dataclass(frozen=True)
class Flaw:
    """Something that is not what was committed or recorded."""

    what: str
    """One line for a person: which array, shard and rows, or which file, and what is wrong."""
    shard: tuple[str, int] | None = None
    """Table and number of the damaged shard."""
    damage: Damage | None = None
    """Array, rows and file, where a shard's file was looked at."""
    record: str | None = None
    """The damaged file of the record, relative to the stage's folder."""
    bucket: bool = False
    """It is the bucket's copy of that file that is damaged."""


@dataclass(frozen=True)
class _Unit:
    """A piece of the work: so many bytes to hash."""

    bytes: int
    hash: Callable[[], list[Flaw]]


@dataclass
class Check:
    """What was found of one stage."""

    stage: StageDir
    passed: str | None = None
    """Why there was nothing to look at."""
    arrays: int = 0
    shards: int = 0
    """Committed ones, over all tables."""
    files: int = 0
    """Recorded in done.json."""
    bytes: int = 0
    """To be hashed."""
    flaws: list[Flaw] = field(default_factory=list)
    blind: bool = False
    """An array could not be opened, so its shards were not looked at."""
    repairing: bool = False
    """A repair was begun, and what came of it was not looked at yet."""
    units: list[_Unit] = field(default_factory=list)


def look(stage: StageDir) -> Check:
    """What there is to hash of a stage. Raises StoreError when a bucket can't be asked."""
    here, found = state(stage).status, Check(stage, repairing=under_repair(stage))
    if here is Status.ABSENT:
        return Check(stage, passed="it is not there")
    if here is Status.EVICTED:
        return Check(stage, passed="its data was freed")
    try:
        done = read_done(stage)
    except StoreError as damage:
        found.flaws.append(Flaw(damage.what, record=stage.done.name))
        done = None
    if stage.kind in TABLES:
        _tables(found, complete=done is not None)
    elif done is None and not found.flaws:
        return Check(stage, passed="it is not done")
    for name, record in ({} if done is None else done.outputs).items():
        found.files += 1
        hashing = partial(_recorded, stage, name, record["sha256"])
        found.units.append(_Unit(int(record["bytes"]), hashing))
    if done is not None and data_url(stage.path) is not None:
        _bucket_records(found, {n: r["sha256"] for n, r in done.outputs.items()})
    if not found.units and not found.flaws:
        return Check(stage, passed="nothing is committed yet")
    found.bytes = sum(unit.bytes for unit in found.units)
    return found


def check(checks: Sequence[Check], threads: int, on_bytes: Callable[[int], None]) -> None:
    """Hash what `look` found; each check gets its flaws, in the order of its arrays and shards.

    `on_bytes` is told how many bytes were hashed so far. Raises StoreError when a bucket can't be
    asked: an outage is no damage.
    """
    units = [(each, unit) for each in checks for unit in each.units]
    hashed = 0
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda pair: pair[1].hash(), units)
        try:
            for (each, unit), flaws in zip(units, results, strict=True):
                each.flaws += flaws
                hashed += unit.bytes
                on_bytes(hashed)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for each in checks:
        each.units = []


def under_repair(stage: StageDir) -> bool:
    """Whether a repair was begun and its outcome not looked at yet."""
    return (stage.path / REPAIR).exists()


def _tables(found: Check, *, complete: bool) -> None:
    """Units for the committed shards of every table of the stage."""
    stage = found.stage
    files = data_files(stage.path)
    remote = not isinstance(files, LocalFiles)
    if isinstance(files, LocalFiles):
        files = ReadFiles(files.root)
    try:
        entries = read_entries(files)
    except StoreError as damage:
        if remote:
            raise
        found.flaws.append(Flaw(damage.what))
        found.blind = True
        return
    for name in sorted({entry["table"] for entry in entries}):
        mine = [entry for entry in entries if entry["table"] == name]
        columns = _columns(mine)
        found.arrays += len(columns)
        try:
            reader = TableReader(files, mine, name, columns)
        except StoreError as damage:
            found.flaws.append(Flaw(damage.what))
            found.blind = True
            continue
        absent = reader.table.n_shards - len(mine)
        if complete and absent:
            found.flaws.append(
                Flaw(
                    f"array {name}.zarr: {absent} of {reader.table.n_shards} shards have no line "
                    f"in {files.where(JOINED)}"
                )
            )
        found.shards += len(mine)
        for s in sorted(reader.commits):
            found.units.append(_Unit(reader.bytes_of(s), partial(_shard, reader, s, remote)))


def _columns(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The arrays that commits tell of, in the order of their names."""
    return tuple(sorted({file.split("/")[-2] for entry in entries for file in entry["files"]}))


def _shard(reader: TableReader, s: int, remote: bool) -> list[Flaw]:
    """Hash a shard."""
    table, flaws = reader.table, list[Flaw]()
    try:
        for damage in reader.damages(s):
            flaws.append(Flaw(str(damage), (table.name, s), damage))
    except StoreError as error:
        if remote:
            raise  # an outage is no damage
        first, rows = s * table.shard_rows, table.rows_in(s)
        where = f"array {table.name}.zarr, shard {s} (rows {first} to {first + rows - 1})"
        flaws.append(Flaw(f"{where}: {error.what}", (table.name, s)))
    return flaws


def _recorded(stage: StageDir, name: str, digest: str) -> list[Flaw]:
    """Hash a file that done.json lists."""
    path = stage.path / name
    if not path.is_file():
        return [Flaw(f"{path} is missing", record=name)]
    try:
        same = sha256_of(path) == digest
    except StoreError as error:
        return [Flaw(error.what, record=name)]
    if same:
        return []
    return [Flaw(f"{path} ({size_of(path):,} bytes) is not what {stage.done} lists", record=name)]


def _bucket_records(found: Check, digests: dict[str, str]) -> None:
    """Compare the bucket's own records with the digests of done.json."""
    files = data_files(found.stage.path)
    for name, digest in digests.items():
        if name == found.stage.stats.name:
            continue  # the folder alone holds it
        data = files.get(name)
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            what = "is missing" if data is None else f"is not what {found.stage.done} lists"
            found.flaws.append(Flaw(f"{files.where(name)} {what}", record=name, bucket=True))
