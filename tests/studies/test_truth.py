"""Labels stand beside the words they were written for, and latents are judged by them alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studying import Studied

from sae_cli.errors import ModelError
from sae_cli.lm.tiny.tokenizer import build_tokenizer
from sae_cli.lm.tiny.train import build_model
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import DataSpec, ModelSpec
from sae_cli.spec.studies import TruthStudy
from sae_cli.studies import truth
from sae_cli.studies.bench import Bench, Figure
from sae_cli.studies.truth_labels import Marked, marked

SOME = TruthStudy(tokens=8192, heldout_tokens=8192)


def kept(figures: list[Figure], metric: str, control: str | None = None) -> Figure:
    (found,) = [f for f in figures if (f.metric, f.control, f.slice) == (metric, control, "kept")]
    return found


def value(figures: list[Figure], metric: str, control: str | None = None) -> float:
    found = kept(figures, metric, control).value
    assert found is not None
    return found


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_label_stands_beside_its_own_word_in_every_block(bench: Bench, split: Any) -> None:
    """Documents run on over the ends of blocks and of batches; most tokens are not first ones."""
    found = marked(bench, split, 8192)
    tokens, documents = [], []
    for seen in bench.text(split, 8192):
        keep = seen.keep.numpy()
        tokens += seen.tokens[seen.keep].tolist()
        documents += seen.documents[keep].tolist()
    assert found.documents.tolist() == documents and len(found.acts) == len(tokens)
    words = bench.tokenizer.convert_ids_to_tokens(tokens)
    for word, names in zip(words, found.names, strict=True):
        assert (f"name={word}" in names) == any(n.startswith("role=name") for n in names)
        assert ("role=quote_open" in names or "role=quote_close" in names) == (word == '"')
        assert sum(n.startswith("role=") for n in names) == 1
        assert sum(n.startswith("kind=") for n in names) == 1
    counts = found.counts()
    has = found.has(sorted(counts))
    assert has.sum(0).tolist() == [counts[name] for name in sorted(counts)]
    assert counts["quoted=yes"] > 100 and counts["copy=yes"] > 100


def test_text_of_another_stream_is_refused_not_scored(bench: Bench) -> None:
    wrong = replace(bench, data=DataSpec(seed=5))
    with pytest.raises(ModelError, match="the grammar has another word there"):
        marked(wrong, "train", 1024)


def test_other_models_and_other_text_are_refused(bench: Bench) -> None:
    other = replace(bench, spec=ModelSpec(hf="some/model"))
    with pytest.raises(ModelError, match="builtin: tiny"):
        truth.run(SOME, other)
    mixed: Any = {"sources": [{"builtin": "tiny"}, {"path": "x.jsonl"}]}
    for data in (DataSpec.model_validate(mixed), DataSpec(chat_template=True)):
        with pytest.raises(ModelError, match="built-in text alone"):
            truth.run(SOME, replace(bench, data=data))


def by_hand(seed: int, d: int = 6, tokens: int = 600) -> Marked:
    """Coordinate 0 is the label a=1, coordinate 1 is a=2 with mistakes; the rest is noise."""
    dice = np.random.default_rng(seed)
    one, two = dice.random(tokens) < 0.2, dice.random(tokens) < 0.3
    acts = dice.standard_normal((tokens, d)).astype(np.float32)
    acts[:, 0] = np.where(one, 3, -1)
    acts[:, 1] = np.where(two ^ (dice.random(tokens) < 0.1), 1, -1)
    names = [
        frozenset(({"a=1"} if x else set()) | ({"a=2"} if y else set()) | {"always=yes"})
        for x, y in zip(one, two, strict=True)
    ]
    return Marked(torch.from_numpy(acts), np.arange(tokens) // 20, names)


def test_a_latent_that_is_the_label_is_found_and_is_perfect(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"train": by_hand(0), "heldout": by_hand(1)}
    monkeypatch.setattr(truth, "marked", lambda _, split, __: parts[split])
    d = 6
    turn = torch.eye(d)[:, torch.arange(d).flip(0)]  # latent 5 is coordinate 0
    sae = SAE("relu_l1", turn, turn.T.contiguous(), torch.zeros(d), torch.zeros(d))
    tap = replace(bench.tap, dim=d)
    here = replace(bench, saes={"s": sae}, tap=tap, mean=torch.zeros(d, dtype=torch.float64))
    found = truth.run(TruthStudy(), here)["s"]
    rows = {(f.metric, f.slice, f.control): f for f in found.figures}
    assert set(found.detail["labels"]) == {"a=1", "a=2"}, "what is always true is no label"
    perfect = rows["truth.f1_v1", "label:a=1", None]
    assert (perfect.value, perfect.low, perfect.high, perfect.docs) == (1.0, 1.0, 1.0, 30)
    assert rows["truth.auroc_v1", "label:a=1", None].value == 1.0
    assert found.detail["latents"][0]["f1"] | {"threshold": 0.0} == {
        "feature": 5, "threshold": 0.0, "train": 1.0, "heldout": 1.0,
        "called": perfect.n, "true": perfect.n,
    }  # fmt: skip
    heldout = parts["heldout"]
    called, label = heldout.acts[:, 1].numpy() > 0, heldout.has(["a=2"])[:, 0]
    true = int((called & label).sum())
    want = 2 * true / (called.sum() + label.sum())
    noisy = rows["truth.f1_v1", "label:a=2", None]
    assert noisy.value == pytest.approx(want) and 0.7 < want < 0.95
    assert noisy.low is not None and noisy.high is not None and noisy.low < want < noisy.high
    assert value(found.figures, "truth.f1_v1") == pytest.approx((1 + want) / 2)
    assert value(found.figures, "truth.f1_v1", "neurons") == pytest.approx((1 + want) / 2)
    assert value(found.figures, "truth.wins_neurons_v1") == 0.0, "they are the same"
    assert value(found.figures, "truth.wins_random_v1") == 1.0


def test_a_dead_sae_scores_nothing_and_is_no_error(bench: Bench) -> None:
    d = bench.tap.dim
    dead = SAE("relu_l1", torch.zeros(d, 8), torch.zeros(8, d), torch.zeros(8), torch.zeros(d))
    found = truth.run(SOME, replace(bench, saes={"dead": dead}))["dead"].figures
    assert value(found, "truth.f1_v1") == 0.0 and value(found, "truth.auroc_v1") == 0.5


def test_where_no_label_is_common_enough_all_is_null(bench: Bench) -> None:
    found = truth.run(SOME.model_copy(update={"fewest": 8000}), bench)
    for each in found.values():
        assert len(each.figures) == 4
        assert all(f.value is None and "8000 tokens" in (f.reason or "") for f in each.figures)


@pytest.fixture(scope="module")
def shipped(trained: Bench) -> list[Figure]:
    (found,) = truth.run(SOME, trained).values()
    json.dumps([found.detail, found.method])
    return found.figures


@pytest.mark.slow
def test_the_best_latent_beats_the_best_neuron_on_most_labels(shipped: list[Figure]) -> None:
    wins = kept(shipped, "truth.wins_neurons_v1")
    assert wins.value is not None and wins.value > 0.6 and (wins.n or 0) > 30
    f1 = kept(shipped, "truth.f1_v1")
    assert f1.low is not None and f1.low > value(shipped, "truth.f1_v1", "neurons") + 0.03
    assert f1.low > value(shipped, "truth.f1_v1", "random")


@pytest.mark.slow
def test_an_sae_of_a_model_that_learned_nothing_is_worse(
    shipped: list[Figure], tmp_path: Path
) -> None:
    """The same model, text and training, with random weights."""
    folder, tokenizer = tmp_path / "random", build_tokenizer()
    torch.manual_seed(0)
    build_model(len(tokenizer), 0.08).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    random = Studied(tmp_path, f"model={folder}").bench(spec=ModelSpec(builtin="tiny"))
    (found,) = truth.run(SOME, random).values()
    f1 = kept(shipped, "truth.f1_v1")
    assert f1.low is not None and value(found.figures, "truth.f1_v1") < f1.low - 0.05
