"""What a probe says of a latent that is a word, and what it never looks at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import D_SAE, PLANTED, bench, jsonl, planted, sentences

from sae_cli.errors import DataError, Interrupted
from sae_cli.report.catalogue import CATALOGUE
from sae_cli.sae.controls import SEED
from sae_cli.spec.stages import ModelSpec
from sae_cli.spec.studies import ProbingStudy, ProbingTask
from sae_cli.studies import probing
from sae_cli.studies.bench import Figure, Findings
from sae_cli.studies.probe.scores import SCORES
from sae_cli.studies.probe.split import parts
from sae_cli.studies.probe.texts import Labelled

KEY = "aaaaaaaa"


def study(path: str, **changes: Any) -> ProbingStudy:
    asked = {"k": (1, 2), "train_texts": 160, "test_texts": 40, "strengths": (0.1, 100.0)}
    return ProbingStudy(tasks=(ProbingTask(path=path),), **{**asked, **changes})


def at(found: Findings, of: str, control: str | None = None, score: str = "accuracy") -> Figure:
    (one,) = (
        f
        for f in found.figures
        if (f.metric, f.slice, f.control) == (f"probing.{score}_v1", of, control)
    )
    return one


@pytest.fixture(scope="module")
def anchored(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Findings]:
    """A file of texts whose label is the planted word, and what is found of it."""
    here = tmp_path_factory.mktemp("anchored")
    path = jsonl(here / "anchored.jsonl", sentences(220))
    return path, probing.run(study(path), bench(here))[KEY]


def test_one_latent_that_is_the_label_says_it_of_every_test_text(
    anchored: tuple[str, Findings],
) -> None:
    _, found = anchored
    for of in ("k=1", "data=anchored,k=1"):
        for score in SCORES:
            one = at(found, of, score=score)
            assert (one.value, one.low, one.high, one.n, one.docs) == (1.0, 1.0, 1.0, 40, 40)
    probes = found.detail["data_sets"]["anchored"]["probes"]
    assert probes["1"]["reads"] == [PLANTED] and probes["2"]["reads"][0] == PLANTED


def test_what_stands_beside_it_does_worse_at_one_feature(anchored: tuple[str, Findings]) -> None:
    _, found = anchored
    for control in ("neurons", "random"):
        one = at(found, "k=1", control)
        assert one.value is not None and one.low is not None
        assert one.low <= one.value < 1
    assert at(found, "k=1", "random").seed == SEED
    whole, nothing = at(found, "k=all", "all").value, at(found, "k=0", "majority")
    assert whole is not None and whole > 0.8
    assert nothing.value == at(found, "k=0", "majority", "auroc").value == 0.5


def test_every_metric_is_in_the_catalogue(anchored: tuple[str, Findings]) -> None:
    assert {figure.metric for figure in anchored[1].figures} <= CATALOGUE.keys()


def test_the_same_texts_in_any_order_give_the_same(
    anchored: tuple[str, Findings], tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "anchored.jsonl", sentences(220)[::-1])
    again = probing.run(study(path), bench(tmp_path))[KEY]
    values = [(f.metric, f.slice, f.control, f.value) for f in anchored[1].figures]
    assert [f[:3] for f in values] == [(f.metric, f.slice, f.control) for f in again.figures]
    assert [f[3] for f in values] == pytest.approx([f.value for f in again.figures])


def test_an_sae_is_told_the_same_whoever_is_studied_with_it(
    anchored: tuple[str, Findings], tmp_path: Path
) -> None:
    path, alone = anchored
    few = planted(16)
    moved = replace(few, W_enc=few.W_enc.roll(1, 1), b_enc=few.b_enc.roll(1))
    crowd = {"bbbbbbbb": moved, KEY: planted(), "cccccccc": planted()}
    found = probing.run(study(path), bench(tmp_path, saes=crowd))
    assert found[KEY].figures == alone.figures == found["cccccccc"].figures
    probes = found["bbbbbbbb"].detail["data_sets"]["anchored"]["probes"]
    assert probes["1"]["reads"] == [PLANTED + 1]
    assert at(found["bbbbbbbb"], "k=1", "neurons") == at(alone, "k=1", "neurons")


def test_labels_of_test_texts_change_no_choice(
    anchored: tuple[str, Findings], tmp_path: Path
) -> None:
    """They are turned over; what probes read, and how strongly they are held back, is as it was."""
    asked = study(anchored[0], balanced=False)  # else which texts there are hangs on all labels
    before = probing.run(asked, bench(tmp_path))[KEY]
    pairs = sentences(220)
    data = Labelled("x", *map(tuple, zip(*pairs, strict=True)), "", "")  # type: ignore[arg-type]
    here = bench(tmp_path)
    ids = probing.read(here, data.texts, context=128, chat_template=False)
    test = {*parts(data, ids, asked).test}
    assert len(test) == 40
    turned = [(text, y != (i in test)) for i, (text, y) in enumerate(pairs)]
    path = jsonl(tmp_path / "anchored.jsonl", turned)
    after = probing.run(study(path, balanced=False), bench(tmp_path))[KEY]
    assert (
        after.detail["data_sets"]["anchored"]["probes"]
        == (before.detail["data_sets"]["anchored"]["probes"])
    )
    for control in (None, "neurons", "random"):
        was, now = (at(f, "k=1", control).value for f in (before, after))
        assert was is not None and now == pytest.approx(1 - was)


def test_no_text_is_on_both_sides_even_if_it_is_there_twice() -> None:
    pairs = sentences(100) * 2
    data = Labelled("x", *map(tuple, zip(*pairs, strict=True)), "", "")  # type: ignore[arg-type]
    ids = [np.array([1, *text.encode()[:30]], np.int64) for text in data.texts]
    cut = parts(data, ids, study("x"))
    train, test = ({ids[i].tobytes() for i in part} for part in (cut.train, cut.test))
    assert train.isdisjoint(test)
    assert len(train) == len(cut.train) and len(test) == len(cut.test)
    assert cut.repeated == len(ids) - len({each.tobytes() for each in ids}) >= 100
    labels = [data.positive[i] for i in cut.train]
    assert sum(labels) * 2 == len(labels)
    assert len(cut.train) == pytest.approx(4 * len(cut.test), abs=8)


def test_too_few_texts_or_one_label_are_no_numbers(tmp_path: Path) -> None:
    pairs = sentences(220)
    few = jsonl(tmp_path / "few.jsonl", pairs[:30])
    one = jsonl(tmp_path / "one.jsonl", [(text, True) for text, _ in pairs])
    good = jsonl(tmp_path / "good.jsonl", pairs)
    tasks = tuple(ProbingTask(path=path) for path in (few, one, good))
    found = probing.run(study(few).model_copy(update={"tasks": tasks}), bench(tmp_path))[KEY]
    for name in ("few", "one"):
        for control, k in ((None, 1), ("neurons", 2), ("random", 1), ("all", "all")):
            null = at(found, f"data={name},k={k}", control)
            assert null.value is None and "texts of the rarer label, fewer than" in str(null.reason)
    assert at(found, "k=1").value == 1.0 and at(found, "k=1").n == 40
    alone = probing.run(study(one), bench(tmp_path))[KEY]
    assert at(alone, "k=1").value is None and "rarer label" in str(at(alone, "k=1").reason)


def test_more_latents_than_there_are_is_no_number(
    anchored: tuple[str, Findings], tmp_path: Path
) -> None:
    found = probing.run(study(anchored[0], k=(1, D_SAE + 1)), bench(tmp_path))[KEY]
    null = at(found, f"k={D_SAE + 1}")
    assert (null.value, null.reason) == (None, f"there are fewer than {D_SAE + 1} to choose of")
    assert at(found, f"k={D_SAE + 1}", "neurons").value is not None


def test_a_study_that_was_stopped_goes_on_where_it_stood(
    anchored: tuple[str, Findings], tmp_path: Path
) -> None:
    path, whole = anchored
    second = jsonl(tmp_path / "second.jsonl", sentences(200, seed=5))
    both = study(path).model_copy(
        update={"tasks": (ProbingTask(path=path), ProbingTask(path=second))}
    )
    said: list[str] = []

    def stop_at_the_second(where: str) -> None:
        if len(said) == 2:
            raise Interrupted("stopped")

    here = bench(tmp_path / "a", note=said.append, leave=stop_at_the_second)
    here.scratch.mkdir()
    with pytest.raises(Interrupted):
        probing.run(both, here)
    assert ["anchored" in line for line in said] == [True, False]
    resumed = probing.run(both, replace(here, leave=lambda _: None))
    assert len(said) == 3 and "second" in said[2]
    (tmp_path / "b").mkdir()
    assert resumed == probing.run(both, bench(tmp_path / "b"))
    assert at(resumed[KEY], "data=anchored,k=1") == at(whole, "data=anchored,k=1")


def test_a_model_without_data_sets_of_its_own_needs_some(tmp_path: Path) -> None:
    here = bench(tmp_path, spec=ModelSpec(hf="org/name"))
    with pytest.raises(DataError, match="nothing to probe"):
        probing.run(ProbingStudy(), here)
