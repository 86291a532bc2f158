"""What `saectl verify PATH` says of a release's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sae_cli.cli import render
from sae_cli.cli.progress import reporter
from sae_cli.errors import FAILED, OK, UsageError
from sae_cli.run.audit import Audit, audit
from sae_cli.spec.base import Frozen
from sae_cli.store.layout import Workspace
from sae_cli.store.records.space import told
from sae_cli.store.releases import MANIFEST, read_manifest


class FileDifference(Frozen):
    """A file that is not as the manifest lists it."""

    file: str
    what: Literal["missing", "extra", "changed"]


class Number(Frozen):
    """A number that was measured again."""

    sae: str
    metric: str
    recorded: float | None
    found: float | None
    low: float | None
    """The least that the record may say beside `found`; null where it can't be judged."""
    high: float | None
    reason: str | None
    ok: bool


class ReleaseOutput(Frozen):
    """`saectl verify PATH --json`, of a release's folder."""

    version: Literal[1] = 1
    ok: bool
    path: str
    suite: str
    key: str
    files: int
    bytes: int
    differences: tuple[FileDifference, ...]
    cards_checked: int
    cards: tuple[str, ...]
    """Those that say something else than the records."""
    why_no_cards: str | None
    tokens: int
    """Held-out tokens that numbers were measured on."""
    numbers: tuple[Number, ...]
    why_no_numbers: str | None
    broken: tuple[str, ...]
    """Records or weights that can't be read."""


def is_folder(path: Path | None) -> bool:
    """Whether `verify` is asked about a folder. Raises UsageError when it is no release."""
    if path is None or not path.is_dir():
        return False
    if not (path / MANIFEST).is_file():
        raise UsageError(
            f"{path} is a folder without {MANIFEST}: neither a release nor a sweep",
            hint="name the folder that holds the manifest, or a sweep's file",
        )
    return True


def verify_release(
    path: Path, workspace: Workspace, *, model: str | None, tokens: int, json: bool, quiet: bool
) -> int:
    """Look at the folder and print what was found. Exit 0: nothing is otherwise; 1: some is."""
    report = reporter(quiet=quiet or json)
    try:
        report.begin("verify", -(-read_manifest(path).bytes // 10**6), 0, "MB")
        found = audit(
            path, workspace, model=model, tokens=tokens,
            on_bytes=lambda n: report.at(n // 10**6), say=report.note,
        )  # fmt: skip
    finally:
        report.close()
    if json:
        print(_plain(found).model_dump_json(indent=2))
    else:
        _print(found)
    return OK if found.ok else FAILED


def _plain(found: Audit) -> ReleaseOutput:
    manifest = found.manifest
    return ReleaseOutput(
        ok=found.ok,
        path=str(found.folder),
        suite=manifest.suite,
        key=manifest.key,
        files=len(manifest.files),
        bytes=manifest.bytes,
        differences=tuple(FileDifference(file=d.file, what=d.what) for d in found.differences),
        cards_checked=found.cards_checked,
        cards=tuple(found.cards),
        why_no_cards=found.why_no_cards,
        tokens=found.tokens,
        numbers=tuple(
            Number(
                sae=n.sae, metric=n.metric, recorded=n.recorded, found=n.found, low=n.low,
                high=n.high, reason=n.reason, ok=n.ok,
            )
            for n in found.numbers
        ),
        why_no_numbers=found.why_no_numbers,
        broken=tuple(found.broken),
    )  # fmt: skip


def _print(found: Audit) -> None:
    if found.numbers:
        render.table(
            ["SAE", "metric", "recorded", "again", "allowed", ""],
            [
                (
                    n.sae, n.metric, _number(n.recorded), _number(n.found),
                    "" if n.low is None else f"{_number(n.low)} to {_number(n.high)}",
                    (n.reason or "ok") if n.ok else "OTHERWISE",
                )
                for n in found.numbers
            ],
            right=["recorded", "again"],
        )  # fmt: skip
    for d in found.differences:
        print(f"{d.what}: {d.file}")
    for name in found.cards:
        print(f"says something else than the records: {name}")
    for what in found.broken:
        print(f"broken: {what}")
    files, wrong = found.manifest.files, len(found.differences)
    print(
        f"files: {len(files)} listed, {told(found.manifest.bytes)} hashed; "
        + (f"{wrong} otherwise" if wrong else "all are as the manifest says")
    )
    if found.why_no_cards:
        print(f"cards: not compared: {found.why_no_cards}")
    elif found.cards_checked:
        print(
            f"cards: {found.cards_checked} made again; "
            + (f"{len(found.cards)} otherwise" if found.cards else "the same bytes")
        )
    if found.numbers:
        off = sum(not n.ok for n in found.numbers)
        print(
            f"numbers: {len(found.numbers)} measured again on {found.tokens:,} held-out tokens; "
            + (f"{off} otherwise" if off else "the record stands")
        )
    if found.why_no_numbers:
        print(f"numbers: not measured again: {found.why_no_numbers}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
