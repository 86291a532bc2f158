"""`report.html`: one file that needs nothing else, from the records of a sweep.

No network, no font, no script that it could not be read without. The same records make the same
bytes: no time of writing is in it. The numbers stand in it once more as JSON, for programs.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from sae_cli import __version__
from sae_cli.plan.graph import Graph, amount
from sae_cli.report.catalogue import meaning, ordered
from sae_cli.report.elbow import elbows
from sae_cli.report.figures import densities, layers, training, widths
from sae_cli.report.figures import fronts as sparsity
from sae_cli.report.figures.facets import Section, site_of
from sae_cli.report.gather import Measured, Scored, proper
from sae_cli.report.palette import DARK, LIGHT, stylesheet, variables
from sae_cli.report.pareto import METRICS, fronts
from sae_cli.report.seeds import OverSeeds, over_seeds
from sae_cli.report.studied import Table
from sae_cli.report.studied import tables as study_tables
from sae_cli.report.svg import draw
from sae_cli.report.table import mask_words, revision, source_id
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.work import CacheWork, TokensWork

VERSION = 1
"""Of the JSON in the page."""
WORDS = ("SAE", "model", "layer", "site", "architecture", "width", "variant")


def sections(found: Sequence[Scored]) -> list[Section]:
    """The parts of the report that hold charts."""
    own = proper(found)
    return [
        sparsity.section(own),
        layers.section(own),
        widths.section(own),
        densities.section(found),
        layers.dead(own),
        training.section(found),
    ]


def page(graph: Graph, found: Sequence[Scored], parts: Sequence[Section]) -> str:
    """The page of a sweep, with `parts` as `sections` makes them of `found`, of which there is at
    least one."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = files("sae_cli.report")
    template = (here / "page.html.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, autoescape=True)
    metrics = ordered({name for s in found for name in s.row.metrics})
    studies = study_tables(found)
    studied = ordered({c.metric for table in studies for c in table.columns})
    return environment.from_string(template).render(
        sweep=graph.sweep.spec.name,
        lede=_lede(proper(found), len(found)),
        glance=_glance(proper(found)),
        facts=_facts(found),
        sections=[
            {"name": s.name, "title": s.title, "note": s.note, "empty": s.empty,
             "charts": [(c, Markup(draw(c))) for c in s.charts]}
            for s in parts
        ],
        words=WORDS,
        metrics=[(name, meaning(name)) for name in metrics],
        formulas=[(name, meaning(name)) for name in [*metrics, *studied]],
        studies=[(table, _study_lines(table)) for table in studies],
        saes=[_line(s, metrics) for s in found],
        over_seeds=[_mean_line(each, metrics) for each in over_seeds(found)],
        numbers=Markup(_numbers(graph, found)),
        light=Markup(variables(LIGHT)),
        dark=Markup(variables(DARK)),
        charts_css=Markup(stylesheet()),
        script=Markup("".join((here / n).read_text("utf-8") for n in ("page.js", "tip.js"))),
        version=__version__,
    )  # fmt: skip


def _lede(found: Sequence[Scored], of: int) -> str:
    """Of those that are no control of another, of so many."""
    rows = [s.row for s in found]
    places = {(r.model, r.layer, site_of(r)) for r in rows}
    models, archs = _unique(r.model for r in rows), _unique(r.arch for r in rows)
    widths_ = sorted({r.width for r in rows})
    span = f"{widths_[0]:,}" if len(widths_) == 1 else f"{widths_[0]:,} to {widths_[-1]:,}"
    return (
        f"{_count(len(rows), 'SAE')} of {' and '.join(models)} at {_count(len(places), 'place')} "
        f"({', '.join(_unique(site_of(r) for r in rows))}; "
        f"{_count(len({r.layer for r in rows}), 'layer')}): {', '.join(archs)}, {span} latents."
        + (f" {_count(of - len(rows), 'control')} on random weights." if of > len(rows) else "")
    )


def _glance(found: Sequence[Scored]) -> list[tuple[str, str]]:
    shown = [("SAEs", str(len(found)))]
    for metric in ("l0_v1", *METRICS, "dead_fraction_v1"):
        values = [v for s in found if (v := s.row.metrics.get(metric)) is not None]
        about = meaning(metric)
        if values:
            shown.append((f"{about.label}, median", about.told(statistics.median(values))))
    return shown


def _facts(found: Sequence[Scored]) -> list[tuple[str, list[str]]]:
    models, texts, masks, kept = [], [], [], []
    for each in found:
        capture, text = each.train.deps["cache"].work, each.train.deps["tokens"].work
        assert isinstance(capture, CacheWork) and isinstance(text, TokensWork)
        model, data = capture.model, text.data
        models.append(f"{each.row.model}, {_short(model)}, {model.dtype}")
        names = " + ".join(source_id(s) for s in data.sources)
        texts.append(
            f"{names}: {amount(data.tokens)} tokens, {amount(data.heldout_tokens)} held out by "
            f"document, contexts of {data.context}"
        )
        masks.append(mask_words(capture.mask, data.train_on))
        counted = each.record.get("tokens")
        kept.append("unknown" if counted is None else f"{counted:,}")
    versions = _unique(each.done.saectl for each in found)
    return [
        ("Model", _unique(models)),
        ("Text", _unique(texts)),
        ("Mask", _unique(masks)),
        ("Counted", [" or ".join(_unique(kept)[:4]) + " tokens of the held-out text"]),
        ("Keys", [_keys(found)]),
        ("saectl", [" and ".join(versions)]),
    ]


def _short(model: ModelSpec) -> str:
    """A revision that fits into a line; the table has all of it."""
    kind, _, digits = (revision(model) or "").rpartition(":")
    anew = "" if model.reinit is None else f", weights drawn anew from seed {model.reinit}"
    return (f"{kind} {digits[:16]}".strip() or "revision unknown") + anew


def _keys(found: Sequence[Scored]) -> str:
    texts = _unique(s.train.deps["tokens"].key for s in found)
    caches = _unique(s.train.deps["cache"].key for s in found)
    more = f" and {len(caches) - 4} more" if len(caches) > 4 else ""
    return (
        f"tokens {' '.join(texts)}; activations {' '.join(caches[:4])}{more}; those of SAEs are in "
        "the table"
    )


def _study_lines(table: Table) -> list[dict[str, Any]]:
    return [
        {
            "name": line.name,
            "control": line.control,
            "control_of": None if line.control else line.control_of,
            "cells": [
                _cell(column.metric, one)
                for column, one in zip(table.columns, line.cells, strict=True)
            ],
        }
        for line in table.lines
    ]


def _cell(metric: str, one: Measured | None) -> dict[str, Any]:
    about, value = meaning(metric), None if one is None else one.value
    reason = "it was not measured" if one is None else one.reason or "no reason was recorded"
    interval = None
    if one is not None and one.interval is not None:
        interval = "interval {} to {}".format(*map(about.told, one.interval))
    return {"metric": metric, "value": value, "told": about.told(value), "reason": reason,
            "tip": interval}  # fmt: skip


def _line(scored: Scored, metrics: Sequence[str]) -> dict[str, Any]:
    row = scored.row
    cells = [_cell(metric, scored.measured.get(metric)) for metric in metrics]
    return {
        "id": scored.id,
        "train_key": row.train_key,
        "name": scored.id.removeprefix(f"{row.model}."),
        "control": scored.control_of and f"random_model, a control of {scored.control_of}",
        "words": (row.model, row.layer, site_of(row), row.arch, row.width, row.variant),
        "cells": cells,
    }


def _mean_line(each: OverSeeds, metrics: Sequence[str]) -> dict[str, Any]:
    cells = []
    for metric in metrics:
        one, about = each.metrics.get(metric), meaning(metric)
        if one is None or one.value is None or one.low is None or one.high is None:
            reason = "it was not measured" if one is None else one.reason
            cells.append({"metric": metric, "told": about.told(None), "tip": reason})
            continue
        told = f"{about.told(one.value)} ± {about.told(one.value - one.low)}"
        tip = f"interval {about.told(one.low)} to {about.told(one.high)}"
        cells.append({"metric": metric, "told": told, "tip": tip})
    return {
        "id": each.id,
        "name": each.id.removeprefix(f"{each.model}."),
        "control": each.control_of and f"random_model, a control of {each.control_of}",
        "model": each.model,
        "seeds": ", ".join(map(str, each.seeds)),
        "cells": cells,
    }


def _numbers(graph: Graph, found: Sequence[Scored]) -> str:
    """What the page shows, for programs; `<` is escaped, so that no text can end the element."""
    rows = [s.row for s in proper(found)]
    whole = {
        "version": VERSION,
        "sweep": graph.sweep.spec.name,
        "saes": [
            {
                **s.row.model_dump(exclude={"metrics", "path"}),
                "id": s.id,
                "metrics": {
                    name: {"value": m.value, "reason": m.reason, "interval": m.interval}
                    for name, m in s.measured.items()
                },
                "controls": [
                    {
                        "name": p.control["name"],
                        "metrics": {name: m.value for name, m in p.measured.items()},
                    }
                    for p in s.controls
                    if p.control is not None
                ],
            }
            for s in found
        ],
        "fronts": [f.model_dump() for metric in METRICS for f in fronts(rows, metric)],
        "elbows": [e.model_dump() for e in elbows(rows)],
        "seeds": [e.model_dump() for e in over_seeds(found)],
    }
    return json.dumps(whole, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
