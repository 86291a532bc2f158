"""`saectl ls` and `saectl show`: what the workspace holds, and all that is known of one thing."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

import typer

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.errors import OK, UsageError
from sae_cli.plan.reason import ago
from sae_cli.spec.problems import closest
from sae_cli.spec.work import KINDS
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import StageDir, Workspace, size_of
from sae_cli.store.records.space import told
from sae_cli.store.records.status import state


def ls(
    kind: Annotated[
        str | None, typer.Argument(help="tokens, cache, train, eval or release.")
    ] = None,
    store: o.Store = o.DEFAULT_STORE,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """What the workspace holds, by kind and name."""
    if kind is not None and kind not in KINDS:
        guess = closest(kind, KINDS)
        raise UsageError(
            f"'{kind}' is no kind of stage ({', '.join(KINDS)})"
            + (f"  did you mean '{guess}'?" if guess else "")
        )
    found = [
        (place, state(place), size_of(place.path))
        for k in KINDS
        if kind in (None, k)
        for place in Workspace(store).stages(k)
    ]
    if json:
        lines = [
            {
                "kind": p.kind,
                "slug": p.slug,
                "key": p.key,
                "path": str(p),
                "status": s.status,
                "age_s": s.age,
                "bytes": size,
            }
            for p, s, size in found
        ]
        print(jsonlib.dumps({"version": 1, "stages": lines}, indent=2))
        return OK
    if not found:
        print(f"{store}: nothing there yet")
        return OK
    render.table(
        ["kind", "name", "key", "status", "age", "size"],
        [(p.kind, p.slug, p.key, s.status, ago(s.age), told(size)) for p, s, size in found],
        right=["size"],
    )
    return OK


def show(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="A stage's key (or its first digits), or its name.")
    ],
    store: o.Store = o.DEFAULT_STORE,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """All that is known of one stage: spec, inputs, outcome, files with their digests."""
    place = _find(key, Workspace(store))
    now = state(place)
    record: dict[str, Any] = {
        "version": 1,
        "kind": place.kind,
        "slug": place.slug,
        "key": place.key,
        "path": str(place),
        "status": str(now.status),
        "cause": now.cause,
        "spec": read_json(place.spec),
        "done": read_json(place.done),
    }
    if json:
        print(jsonlib.dumps(record, indent=2))
        return OK
    print(f"{place.kind}/{place.slug}-{place.key}  {now.status}  {ago(now.age)}\n{place}")
    if now.cause:
        print(f"cause: {now.cause}")
    for title in ("spec", "done"):
        if record[title] is not None:
            print(f"\n{title}")
            for name, value in _flat(record[title], ""):
                print(f"  {name:<44} {value}")
    return OK


def _find(key: str, workspace: Workspace) -> StageDir:
    every = list(workspace.stages())
    found = [p for p in every if p.key.startswith(key)] or [
        p
        for p in every
        if key in (p.slug, f"{p.kind}/{p.slug}", p.path.name, f"{p.kind}/{p.path.name}")
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = "\n  ".join(f"{p.kind}/{p.path.name}" for p in found)
        raise UsageError(f"{key} means more than one stage:\n  {names}")
    guess = closest(key, [n for p in every for n in (p.key, p.slug)])
    raise UsageError(
        f"{key}: no such stage in {workspace.root}"
        + (f"  did you mean '{guess}'?" if guess else ""),
        hint="saectl ls lists them",
    )


def _flat(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [p for k, v in value.items() for p in _flat(v, f"{path}.{k}" if path else str(k))]
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return [p for i, v in enumerate(value) for p in _flat(v, f"{path}.{i}")]
    return [(path, "null" if value is None else str(value))]
