"""The whole study, of a trained SAE of the embedded model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_cli.errors import Interrupted, StoreError
from sae_cli.report.catalogue import CATALOGUE
from sae_cli.sae.base import SAE
from sae_cli.sae.controls import SEED
from sae_cli.spec.studies import ExplanationsStudy
from sae_cli.studies import explanations
from sae_cli.studies.bench import Bench, Findings
from sae_cli.studies.explain.gather import Wanted, gather
from sae_cli.studies.explain.units import candidates, drawn

KEY = "abcdef01"
SPEC = ExplanationsStudy(latents=10, heldout_tokens=4096)
Make = Callable[..., Bench]


@pytest.fixture(scope="module")
def found(explained: Bench) -> Findings:
    return explanations.run(SPEC, explained)[KEY]


def test_every_figure_has_its_controls_and_a_meaning(found: Findings) -> None:
    names = {figure.metric for figure in found.figures}
    assert names <= set(CATALOGUE) and len(names) == 9
    for control in (None, "permuted", "majority", "neurons", "random"):
        there = {figure.metric for figure in found.figures if figure.control == control}
        judged = control in ("permuted", "majority")
        assert there == names - ({"ngram_pearson_v1"} if judged else set())
    assert len({(figure.metric, figure.control) for figure in found.figures}) == len(found.figures)
    for figure in found.figures:
        assert figure.value is not None and figure.n and 0 < figure.n <= SPEC.latents
        assert -1 <= figure.value <= 1
        if figure.low is not None and figure.high is not None:
            assert figure.low <= figure.value <= figure.high


def test_a_figure_has_the_seed_that_its_own_choice_was_drawn_with(explained: Bench) -> None:
    found = explanations.run(SPEC.model_copy(update={"seed": 5}), explained)[KEY]
    seeds: dict[str | None, set[int | None]] = {}
    for figure in found.figures:
        seeds.setdefault(figure.control, set()).add(figure.seed)
    assert seeds == {
        None: {5}, "permuted": {5}, "majority": {None}, "neurons": {None}, "random": {SEED},
    }  # fmt: skip


def test_its_own_explanations_are_better_than_anothers(found: Findings) -> None:
    value = {(figure.metric, figure.control): figure.value for figure in found.figures}
    for metric in ("ngram_detection_balanced_accuracy_v1", "ngram_fuzzing_f1_v1"):
        own, others = value[metric, None], value[metric, "permuted"]
        assert own is not None and others is not None and own > others + 0.1


def test_the_detail_is_json_and_its_means_are_the_figures(found: Findings) -> None:
    rows = json.loads(json.dumps(found.detail))["latents"]
    assert len(rows) == found.method["latents"] == SPEC.latents
    assert all(row["explanation"].startswith('on "') for row in rows)
    assert all(low > 0 for row in rows for low, _, _ in row["bins"])
    (f1,) = (f for f in found.figures if f.metric == "ngram_detection_f1_v1" and not f.control)
    scored = [row["detection"]["f1"] for row in rows if row["detection"] is not None]
    assert f1.value == pytest.approx(np.mean(scored)) and f1.n == len(scored)
    json.dumps(found.method)


def test_no_document_is_in_both_splits(explained: Bench) -> None:
    sae = explained.saes[KEY]
    wanted = {KEY: Wanted(sae, candidates(sae.d_sae, SPEC))}
    train, of_train = gather(explained, SPEC, "train", wanted)
    heldout, of_heldout = gather(explained, SPEC, "heldout", wanted)
    chosen = drawn(of_train[KEY], SPEC)
    assert len(chosen) == SPEC.latents
    shown, judged = set[int](), set[int]()
    for j in chosen:
        shown |= train.documents_of(of_train[KEY].windows.with_it(int(j))[0])
        judged |= heldout.documents_of(of_heldout[KEY].windows.with_it(int(j))[0])
        judged |= heldout.documents_of(of_heldout[KEY].windows.without_it(int(j)))
    assert shown and judged and not shown & judged
    explanations.refuse_shared(train, heldout)
    heldout.documents[3, 7] = train.documents[5, 1]
    with pytest.raises(StoreError, match="is in both splits"):
        explanations.refuse_shared(train, heldout)


def test_what_is_gathered_is_what_the_sae_does(explained: Bench) -> None:
    sae = explained.saes[KEY]
    spec = ExplanationsStudy(train_tokens=2048)
    latents = np.array([5, 0, 99])
    text, of = gather(explained, spec, "train", {KEY: Wanted(sae, latents)})
    acts = torch.cat([
        sae.encode(seen.acts.flatten(0, 1)) * seen.keep.flatten()[:, None]
        for seen in explained.text("train", 2048)
    ]).double().numpy()[:, latents]  # fmt: skip
    assert text.tokens.size == 2048
    flat = text.suffixes(text.tokens).ravel()
    for j in range(3):
        fired = of[KEY].counts.of(j)
        keys, inverse = np.unique(flat[acts[:, j] > 0], return_inverse=True)
        assert np.array_equal(fired.suffixes, keys)
        assert np.array_equal(fired.times, np.bincount(inverse, minlength=len(keys)))
        total = np.bincount(inverse, acts[acts[:, j] > 0, j], len(keys))
        assert fired.total == pytest.approx(total, rel=1e-4)
        windows = acts[:, j].reshape(-1, spec.window)
        assert of[KEY].windows.fired[j] == (windows.max(1) > 0).sum()


def test_an_sae_has_the_same_findings_in_company(bench: Make, found: Findings) -> None:
    sae = bench().saes[KEY]
    other = SAE("topk", sae.W_enc.flip(1), sae.W_dec.flip(0), sae.b_enc.flip(0), sae.b_dec, k=4)
    both = explanations.run(SPEC, bench(saes={"0" * 8: other, KEY: sae}))
    assert both[KEY] == found
    assert both["0" * 8].method["controls_k"] == {"neurons": 4, "random": 4}
    assert both["0" * 8] != found


def test_what_can_not_be_scored_is_null_with_a_reason(bench: Make) -> None:
    sae = bench().saes[KEY]
    dead = dataclasses.replace(sae, b_enc=torch.full_like(sae.b_enc, -1e6))
    got = explanations.run(SPEC, bench(saes={KEY: dead}))[KEY]
    own = [figure for figure in got.figures if figure.control in (None, "permuted", "majority")]
    assert {figure.value for figure in own} == {None}
    assert {figure.reason for figure in own} == {"no latent fires in 5 training windows"}
    assert got.detail["latents"] == []
    short = explanations.run(SPEC.model_copy(update={"heldout_tokens": 64}), bench())[KEY]
    (f1,) = (f for f in short.figures if f.metric == "ngram_detection_f1_v1" and not f.control)
    assert f1.value is None and f1.reason is not None and "held-out windows with" in f1.reason
    assert short.method["unscored"] and short.detail["latents"][0]["reason"] is not None


def test_a_stop_is_heard(bench: Make) -> None:
    def leave(where: str) -> None:
        raise Interrupted(f"stopped at {where}")

    with pytest.raises(Interrupted):
        explanations.run(SPEC, bench(leave=leave))


def test_a_pattern_that_the_grammar_tells_is_told(explained: Bench, tmp_path: Path) -> None:
    """A latent that reads one token's mean activation fires on it, and the words say so."""
    token = int(explained.tokenizer.convert_tokens_to_ids("the"))
    seen = [(s.acts[s.keep], s.tokens[s.keep]) for s in explained.text("train", 4096)]
    acts, ids = torch.cat([a for a, _ in seen]).float(), torch.cat([t for _, t in seen])
    own, rest = acts[ids == token], acts[ids != token]
    both: Any = torch.cat([own, rest])
    target = torch.cat([torch.ones(len(own)), -torch.ones(len(rest))])
    design = torch.cat([both, torch.ones(len(both), 1)], 1)
    weights = torch.linalg.lstsq(design, target[:, None], driver="gelsd").solution[:, 0]
    sae = SAE(
        "relu_l1",
        weights[:-1, None].contiguous(),
        torch.nn.functional.normalize(weights[None, :-1], dim=1),
        weights[-1:].clone(),
        torch.zeros(explained.tap.dim),
    )
    spec = SPEC.model_copy(update={"latents": 1})
    bench = dataclasses.replace(explained, saes={KEY: sae}, cache=tmp_path)
    found = explanations.run(spec, bench)[KEY]
    (row,) = found.detail["latents"]
    assert row["explanation"].startswith('on "the"') and row["fuzzing"]["f1"] > 0.8
