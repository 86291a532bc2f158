"""The pass of a real model with real SAEs: what it finds of one is what a plain look finds, whoever
else is looked at."""

from __future__ import annotations

from copy import copy
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from studying import SPEC, Studied

from sae_cli.lm.capture import Capture
from sae_cli.plan.place import folder
from sae_cli.store.atomic import read_json
from sae_cli.store.dashboards import NONE, Dashboard, Examples, Ranked
from sae_cli.studies.dashboards.build import BATCH_TOKENS, Watched, counted, dashboards
from sae_cli.studies.dashboards.collect import Sizes
from sae_cli.studies.dashboards.texts import Text, stored_text
from sae_cli.studies.watch.live import Live, Reader

SMALL = ("data.tokens=12_000", "data.heldout_tokens=8192", "data.context=120", "train.width=64",
         "train.num_tokens=4096", "train.batch_size=512", "train.shuffle_tokens=1024")  # fmt: skip
SIZES = Sizes(top=5, each=2)
SAES = SPEC.replace(
    "layer: [2], site: [resid_post], k: [8]",
    "layer: [1, 2], site: [resid_post], sae: [{arch: topk, k: 8}, {arch: relu_l1, l1: 5}]",
)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reader, list[Watched], Text]:
    """Four SAEs at two layers of a model; blocks that windows of 32 do not divide."""
    studied = Studied(tmp_path_factory.mktemp("passed"), *SMALL, spec=SAES)
    trained = studied.graph.of("train")
    reader = Reader(trained[0].deps["cache"].work.model, "cpu")
    watched = []
    for stage in trained:
        place = folder(studied.workspace, stage).path
        own = read_json(place / "cfg.json")["metadata"]["saectl"]
        watched.append(Watched(stage.key, Live(reader, place, own, 60.0), {}, {}, {}))
    (text,) = studied.graph.of("tokens")
    return reader, watched, stored_text(folder(studied.workspace, text).path, 10**6)


@pytest.fixture(scope="module")
def together(there: Any) -> dict[str, Dashboard]:
    reader, watched, text = there
    return {found.name: found for found in dashboards(watched, reader.model, text, SIZES)}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Examples | Ranked | Dashboard):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("which", range(4))
def test_top_examples_counts_and_histograms_are_those_of_a_plain_look(
    there: Any, together: dict[str, Dashboard], which: int
) -> None:
    reader, watched, text = there
    live, found = watched[which].live, together[watched[which].name]
    blocks, context = text.tokens.shape
    per = BATCH_TOKENS // context
    dense = np.zeros((blocks, 4 * 32, live.sae.d_sae), np.float32)  # the last window filled up
    tokens = 0
    for start in range(0, blocks, per):
        part = slice(start, start + per)
        (acts,) = Capture(reader.model, [live.tap])(torch.from_numpy(text.tokens[part]).long())
        keep = counted(acts, text.reasons[part], live)
        tokens += keep.sum()
        rows = np.zeros((*keep.shape, live.sae.d_sae), np.float32)
        rows[keep] = live.sae.encode(acts[torch.from_numpy(keep)]).numpy()
        dense[part, :context] = rows
    assert found.tokens == tokens
    windows = dense.reshape(blocks * 4, 32, -1)
    peaks = windows.max(1)
    seen = 0
    for feature in range(live.sae.d_sae):
        firing = peaks[:, feature].nonzero()[0].tolist()
        best = sorted(firing, key=lambda w: (-peaks[w, feature], w))[: SIZES.top]
        there_is = found.top.number[feature] != NONE
        assert found.top.number[feature][there_is].tolist() == best
        assert (found.top.values[feature][there_is] == windows[best][:, :, feature]).all()
        values = dense[..., feature][dense[..., feature] > 0]
        assert (found.fired[feature], found.windows[feature]) == (len(values), len(firing))
        edges = np.r_[0, found.edges[1:-1], np.inf]
        assert found.histogram[feature].tolist() == np.histogram(values, edges)[0].tolist()
        seen += len(best)
    assert seen > 50


def test_what_is_found_of_an_sae_does_not_depend_on_the_others(
    there: Any, together: dict[str, Dashboard]
) -> None:
    reader, watched, text = there
    for each in watched:
        (alone,) = dashboards([each], reader.model, text, SIZES)
        assert same(alone, together[each.name])


def test_tokens_of_extreme_norm_do_not_count(there: Any, together: dict[str, Dashboard]) -> None:
    reader, watched, text = there
    live = watched[0].live
    (acts,) = Capture(reader.model, [live.tap])(torch.from_numpy(text.tokens[:1]).long())
    middle = float(acts.float().norm(dim=-1).median())
    strict = copy(live)
    strict.limit = middle
    (found,) = dashboards([replace(watched[0], live=strict)], reader.model, text, SIZES)
    assert 0.2 < found.tokens / together[watched[0].name].tokens < 0.8
