"""What a model was asked once: found again by one that asks the same, and by nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_cli.sae.base import SAE
from sae_cli.studies import kept as module
from sae_cli.studies.kept import Answer, Kept

QUESTIONS = ["a", ["b", 1], {"c": [2]}]


class Model:
    """Answers with how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Answer:
        self.asked += 1
        return {"x": np.full((2, 3), self.asked, np.float64), "ids": np.array([self.asked, -1])}


def told(kept: Kept, model: Model, questions: Sequence[object] = QUESTIONS) -> list[float]:
    out = []
    for each in questions:
        answer = kept.get(each, model)
        assert answer["x"].shape == (2, 3) and answer["ids"].tolist()[1] == -1
        out.append(float(answer["x"][0, 0]))
    return out


def sae(scale: float = 1.0) -> SAE:
    generator = torch.Generator().manual_seed(0)
    dec = torch.nn.functional.normalize(torch.randn(8, 4, generator=generator), dim=1)
    return SAE("topk", scale * dec.T, dec, torch.zeros(8), torch.zeros(4), k=2)


def test_who_asks_the_same_again_is_answered_without_the_model(tmp_path: Path) -> None:
    model = Model()
    assert told(Kept(tmp_path), model) == [1, 2, 3]
    assert told(Kept(tmp_path), model) == [1, 2, 3] and model.asked == 3


def test_one_that_was_killed_goes_on_behind_the_last(tmp_path: Path) -> None:
    model = Model()
    assert told(Kept(tmp_path), model, QUESTIONS[:2]) == [1, 2]
    assert told(Kept(tmp_path), model) == [1, 2, 3] and model.asked == 3


def test_behind_another_question_everything_is_asked_anew(tmp_path: Path) -> None:
    model = Model()
    told(Kept(tmp_path), model)
    assert told(Kept(tmp_path), model, ["a", "other", QUESTIONS[2]]) == [1, 4, 5]


@pytest.mark.parametrize("harm", ["torn", "empty", "flipped", "gone"])
def test_what_a_power_cut_left_is_asked_anew_and_all_behind_it(tmp_path: Path, harm: str) -> None:
    model = Model()
    told(Kept(tmp_path), model)
    path = tmp_path / "model.1"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes({"torn": data[:-9], "empty": b"", "flipped": data, "gone": b""}[harm])
    if harm == "gone":
        path.unlink()
    assert told(Kept(tmp_path), model) == [1, 4, 5]


def test_another_version_asks_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    told(Kept(tmp_path), model)
    monkeypatch.setattr(module, "__version__", "0")
    assert told(Kept(tmp_path), model) == [4, 5, 6]


def test_a_chapter_hangs_on_its_sae_and_on_what_was_answered_before_it(tmp_path: Path) -> None:
    model = Model()

    def chapter(first: object = "a", name: str = "x", scale: float = 1.0) -> list[float]:
        kept = Kept(tmp_path)
        kept.get(first, model)
        return told(kept.chapter(name, sae(scale)), model, ["q"])

    assert chapter() == chapter() == [2]
    assert chapter(name="y") == [3], "of its own numbering"
    assert chapter() == [2]
    assert chapter(scale=2.0) == [4], "the same key, trained anew to other numbers"
    assert chapter(scale=2.0) == [4]
    assert chapter(first="b") == [6], "the model said something else before"
