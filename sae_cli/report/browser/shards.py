"""The files of one SAE: an index of all features' numbers, and their pages, 256 to a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_cli.report.browser.pack import script
from sae_cli.report.browser.texts import SiteText
from sae_cli.store.dashboards import NONE, Dashboard, Examples, Ranked

FEATURES = 256
"""Features of a file."""
NOTHING = 2**32 - 1
PEAKS = 4
"""Words in the list of features: those that the first top examples peak at."""


def files(found: Dashboard, text: SiteText, folder: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an SAE's files."""
    for first in range(0, found.features, FEATURES):
        name = f"{folder}/feat-{first // FEATURES:03}"
        yield f"{name}.js", script(name, *_shard(found, text, first))
    name = f"{folder}/index.bin"
    yield f"{name}.js", script(name, *_index(found, text))


def _index(found: Dashboard, text: SiteText) -> tuple[Any, dict[str, NDArray[Any]]]:
    meta = {
        "facts": dict(found.facts),
        "features": found.features,
        "tokens": found.tokens,
        "text": text.folder,
        "corpus": text.corpus.name,
        "lacking": dict(found.lacking),
        "said": [[f, *_said(note)] for f, note in sorted(found.notes.items())],
    }
    arrays: dict[str, NDArray[Any]] = {
        "fired": found.fired.astype(np.uint32),
        "windows": found.windows.astype(np.uint32),
        "density": found.density.astype(np.float32),
        "mean": found.mean.astype(np.float32),
        "max": found.largest,
        "score": _column(found, "explanations", "detection"),
        "f1": _column(found, "labels", "f1"),
        "edges": found.edges,
        "peaks": text.words(_peaks(found, text)),
    }
    if found.near is not None:
        arrays["nearest"] = found.near.values[:, :1].max(1, initial=-1).astype(np.float32)
    return meta, arrays


def _said(note: Any) -> list[str]:
    """The first explanation, and all labels, for the list and its search."""
    explanations, labels = note.get("explanations", ()), note.get("labels", ())
    steered = "steered" if note.get("steering") else ""
    return [
        explanations[0]["text"] if explanations else "",
        ", ".join(each["label"] for each in labels),
        steered,
    ]


def _column(found: Dashboard, kind: str, name: str) -> NDArray[np.float32]:
    """float32 [features]: a number of each one's first note of a kind; nan where there is none."""
    out = np.full(found.features, np.nan, np.float32)
    for feature, note in found.notes.items():
        for first in note.get(kind, ())[:1]:
            out[feature] = np.nan if first[name] is None else first[name]
    return out


def _peaks(found: Dashboard, text: SiteText) -> NDArray[np.int64]:
    """[features, PEAKS]: the different tokens that the top examples peak at, first to last; the
    first again behind the last."""
    corpus, top = text.corpus, found.top
    block, start = np.divmod(np.maximum(top.number, 0), corpus.per_block)
    column = start * corpus.window + top.values.argmax(2)
    ids = corpus.tokens[block, np.minimum(column, corpus.tokens.shape[1] - 1)].astype(np.int64)
    ids[top.number == NONE] = NONE
    out = np.repeat(ids[:, :1], PEAKS, axis=1)
    filled = np.zeros(len(ids), np.int64)
    for column_of in range(ids.shape[1]):  # examples, not features
        each = ids[:, column_of]
        new = (each != NONE) & (filled < PEAKS)
        for slot in range(PEAKS):
            new &= ~((out[:, slot] == each) & (slot < filled))
        rows = np.flatnonzero(new)
        out[rows, filled[rows]] = each[rows]
        filled[rows] += 1
    return np.where(out == NONE, 0, out)


def _shard(
    found: Dashboard, text: SiteText, first: int
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    part = slice(first, first + FEATURES)
    notes = {str(f): found.notes[f] for f in range(first, first + FEATURES) if f in found.notes}
    histogram = found.histogram[part]
    filled = histogram > 0
    low = filled.argmax(1)
    size = np.where(filled.any(1), histogram.shape[1] - filled[:, ::-1].argmax(1) - low, 0)
    inside = np.arange(histogram.shape[1])[None]
    inside = (inside >= low[:, None]) & (inside < (low + size)[:, None])
    arrays: dict[str, NDArray[Any]] = {
        "hist_low": low.astype(np.uint8),
        "hist_size": size.astype(np.uint8),
        "hist": histogram[inside].astype(np.uint32),
        **_examples("top", found.top, part, text),
        **_examples("sample", found.sample, part, text),
        "sample_group": found.groups[part][found.sample.number[part] != NONE],
        "idle": text.windows(found.idle[part]).astype(np.uint32),  # NONE becomes NOTHING
        **_ranked("up", found.up, part, text),
        **_ranked("down", found.down, part, text),
        **_ranked("near", found.near, part, None),
    }
    return {"first": first, "notes": notes}, arrays


def _examples(name: str, found: Examples, part: slice, text: SiteText) -> dict[str, NDArray[Any]]:
    """Windows of all features, one behind the other; in each, tokens that fire: where, and how
    strongly, in 1/255 of the window's peak (at least one)."""
    number, values = found.number[part], found.values[part]
    there = number != NONE
    values, peak = values[there], found.peak[part][there]
    window, place = values.nonzero()
    share = np.rint(values[window, place] / peak[window] * 255).clip(1, 255)
    small = np.uint8 if values.shape[1] <= 256 else np.uint16
    return {
        f"{name}_count": there.sum(1).astype(np.uint8),
        f"{name}_window": text.windows(number[there]).astype(np.uint32),
        f"{name}_peak": peak,
        f"{name}_active": np.bincount(window, minlength=len(values)).astype(np.uint16),
        f"{name}_place": place.astype(small),
        f"{name}_share": share.astype(np.uint8),
    }


def _ranked(
    name: str, found: Ranked | None, part: slice, text: SiteText | None
) -> dict[str, NDArray[Any]]:
    """Values in 1/32767 of each feature's largest."""
    if found is None:
        return {}
    ids, values = found.ids[part], found.values[part]
    scale = np.abs(values).max(1, initial=0).astype(np.float32)
    shares = np.rint(values / np.where(scale > 0, scale, 1)[:, None] * 32767)
    placed = ids.astype(np.uint32) if text is None else text.words(ids)
    return {
        f"{name}_id": placed,
        f"{name}_value": shares.astype(np.int16),
        f"{name}_scale": scale,
    }
