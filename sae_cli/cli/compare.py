"""`saectl compare`: two SAEs, or two sweeps, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_cli.cli import options as o
from sae_cli.cli import render
from sae_cli.cli.session import open_sweeps
from sae_cli.errors import OK, UsageError
from sae_cli.report.catalogue import KEPT, meaning
from sae_cli.spec.problems import closest
from sae_cli.store.layout import Workspace

if TYPE_CHECKING:
    from sae_cli.report.compare import Comparison, Difference
    from sae_cli.report.table import LongRow

Named = Annotated[
    str,
    typer.Argument(
        show_default=False,
        help="An SAE by its name or the key of its training or evaluation, or a sweep by its name.",
    ),
]


def compare(
    a: Named,
    b: Named,
    store: o.Store = o.DEFAULT_STORE,
    json: o.Json = False,
    verbose: o.Verbose = False,
) -> int:
    """Two SAEs or two sweeps, metric by metric: which is better, and whether that can be said."""
    from sae_cli.cli.found import CompareOutput
    from sae_cli.report.compare import compare_saes, compare_sweeps
    from sae_cli.report.gather import gather
    from sae_cli.report.table import long_rows

    workspace = Workspace(store)
    sweeps = {
        opened.graph.sweep.spec.name: long_rows(gather(opened.graph, workspace))
        for opened in open_sweeps(None, None, None, workspace, online=False)
    }
    if a in sweeps and b in sweeps:
        found = compare_sweeps(a, sweeps[a], b, sweeps[b])
    else:
        found = compare_saes(_sae(a, sweeps, store), _sae(b, sweeps, store))
    if json:
        print(CompareOutput(comparison=found).model_dump_json(indent=2))
    else:
        _print(found)
    return OK


def _sae(name: str, sweeps: dict[str, list[LongRow]], store: Path) -> list[LongRow]:
    """The rows of the SAE that is called so. Raises UsageError where none, or more than one, is."""
    if name in sweeps:
        raise UsageError(f"{name} is a sweep: compare it with another sweep, or name an SAE of it")
    saes: dict[str, list[LongRow]] = {}
    for rows in sweeps.values():
        one_sweep: dict[str, list[LongRow]] = {}
        for row in rows:
            one_sweep.setdefault(row.sae_id, []).append(row)
        saes |= one_sweep
    found = [n for n in saes if _means(name, n, saes[n][0].run_id)]
    if len(found) == 1:
        return saes[found[0]]
    if found:
        names = "\n  ".join(found)
        raise UsageError(f"{name} means more than one SAE:\n  {names}")
    guess = closest(name, [*saes, *(n.rpartition("-")[0] for n in saes), *sweeps])
    raise UsageError(
        f"{name}: no SAE that was evaluated in {store}"
        + (f"  did you mean '{guess}'?" if guess else ""),
        hint="saectl results lists what was",
    )


def _means(name: str, sae_id: str, run_id: str | None) -> bool:
    slug, _, key = sae_id.rpartition("-")
    return name in (sae_id, slug) or any(k.startswith(name) for k in (key, run_id or key))


def _print(found: Comparison) -> None:
    print(f"a: {found.a}\nb: {found.b}")
    for title, names in (("a", found.only_a), ("b", found.only_b)):
        if names:
            print(f"only in {title}, or not the only one of its kind: {', '.join(names)}")
    if not found.differences:
        print("nothing to compare: no two SAEs are alike in place, architecture, width and seed")
        return
    pairs: dict[tuple[str, str], list[Difference]] = {}
    for each in found.differences:
        pairs.setdefault((each.a_sae, each.b_sae), []).append(each)
    for (a, b), differences in pairs.items():
        if len(pairs) > 1:
            print(f"\n{a}\n{b}")
        _table(differences)
    others = dict.fromkeys(d.slice for d in found.differences if d.slice != KEPT)
    if others:
        print(f"--json has other slices too: {', '.join(others)}")
    for note in found.notes:
        print(f"note: {note}")
    if not found.valid:
        print("not a valid comparison where 'better' says so: see the notes")


def _table(differences: Sequence[Difference]) -> None:
    rows = [
        (
            d.metric,
            _value(d.metric, d.a, d.a_interval),
            _value(d.metric, d.b, d.b_interval),
            "" if d.difference is None else f"{d.difference:+.4g}",
            "not valid" if d.invalid else _better(d),
        )
        for d in differences
        if d.slice == KEPT
    ]
    render.table(["metric", "a", "b", "b - a", "better"], rows, right=["a", "b", "b - a"])


def _value(metric: str, value: float | None, interval: tuple[float, float] | None) -> str:
    about = meaning(metric)
    said = "-" if value is None else about.told(value)
    if interval is None:
        return said
    return f"{said} [{about.told(interval[0])}, {about.told(interval[1])}]"


def _better(found: Difference) -> str:
    if found.better in ("a", "b") and found.intervals_overlap:
        return f"{found.better}, intervals overlap"
    return found.better or ""
