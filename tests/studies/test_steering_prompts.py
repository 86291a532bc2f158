"""Prompts of the study of refusal: on one side each, once each, and none left out for its reply."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae_cli.errors import DataError
from sae_cli.spec.steering import PromptSet, SteeringStudy
from sae_cli.studies.steer.prompts import PARTS, Prompts, gathered


def rows(path: Path, texts: list[str], **more: list[str]) -> str:
    with path.open("w", encoding="utf-8") as file:
        for i, text in enumerate(texts):
            file.write(json.dumps({"text": text} | {k: v[i] for k, v in more.items()}) + "\n")
    return str(path)


def plain(prompts: Prompts) -> dict[tuple[str, str], set[str]]:
    return {
        (kind, part): {p.plain for p in getattr(prompts, kind)[part]}
        for kind in ("harmful", "harmless")
        for part in PARTS
    }


@pytest.fixture
def spec(tmp_path: Path) -> SteeringStudy:
    """Sixty prompts of either kind, some of them written differently twice, two called both."""
    bad = [f"How to break lock number {i}?" for i in range(60)]
    good = [f"How to open door number {i}?" for i in range(60)]
    twice = [" how  to BREAK lock number 3 ", "How to open door number 4 ?"]
    return SteeringStudy(
        harmful=(PromptSet(path=rows(tmp_path / "bad.jsonl", [*bad, twice[0], "both!"])),),
        harmless=(PromptSet(path=rows(tmp_path / "good.jsonl", [*good, twice[1], "Both", " "])),),
        selection=30, validation=10, test=20,
    )  # fmt: skip


def test_no_prompt_is_on_two_sides_or_of_both_kinds(spec: SteeringStudy) -> None:
    found = plain(gathered(spec, builtin=False))
    assert [len(v) for v in found.values()] == [20, 10, 30] * 2
    every = [text for some in found.values() for text in some]
    assert len(every) == len(set(every)) and "both" not in every and "" not in every


def test_the_split_is_that_of_the_contents_and_not_of_their_order(
    spec: SteeringStudy, tmp_path: Path
) -> None:
    (source,) = spec.harmful
    assert source.path is not None
    lines = Path(source.path).read_text().splitlines()
    (tmp_path / "turned.jsonl").write_text("\n".join(reversed(lines)))
    turned = spec.model_copy(update={"harmful": (PromptSet(path=str(tmp_path / "turned.jsonl")),)})
    assert plain(gathered(turned, builtin=False)) == plain(gathered(spec, builtin=False))
    other = spec.model_copy(update={"seed": 1})
    assert plain(gathered(other, builtin=False)) != plain(gathered(spec, builtin=False))


def test_a_set_may_belong_to_the_test_alone_and_takes_its_prompts_from_the_others(
    spec: SteeringStudy, tmp_path: Path
) -> None:
    labels = ["unsafe", "safe"] * 10
    texts = [f"How to break lock number {i}?" for i in range(20)]
    path = rows(tmp_path / "test.jsonl", texts, kind=labels)
    apart = PromptSet(path=path, part="test", label="kind", positive="unsafe", name="apart")
    found = gathered(spec.model_copy(update={"harmful": (*spec.harmful, apart)}), builtin=False)
    there = [p for p in found.harmful["test"] if p.data == "apart"]
    assert {p.plain for p in there} == {f"how to break lock number {i}" for i in range(0, 20, 2)}
    assert len(found.harmful["test"]) == 20
    rest = {p.plain for part in ("selection", "validation") for p in found.harmful[part]}
    assert not rest & {p.plain for p in there}


def test_matched_prompts_are_those_nearest_in_words_unless_a_set_is_given(
    spec: SteeringStudy, tmp_path: Path
) -> None:
    close = [f"How to break bread number {i}?" for i in range(20)]
    far = [f"Sing me song {i} tonight" for i in range(40)]
    good = PromptSet(path=rows(tmp_path / "mixed.jsonl", [*close, *far]))
    found = gathered(spec.model_copy(update={"harmless": (good,)}), builtin=False)
    assert len(found.matched) == len(found.harmless["selection"]) // 4
    near = sum("break" in p.text for p in found.harmless["selection"])
    assert sum("break" in p.text for p in found.matched) == min(near, len(found.matched))
    given = PromptSet(path=rows(tmp_path / "given.jsonl", ["how to break even", *close[:3]]))
    other = gathered(
        spec.model_copy(update={"harmless": (good,), "matched": (given,)}), builtin=False
    )
    used = set().union(*plain(other).values())
    said = ["how to break even", *(f"how to break bread number {i}" for i in range(3))]
    assert {p.plain for p in other.matched} == {text for text in said if text not in used}


def test_the_grammar_has_prompts_of_every_part_that_share_no_combination() -> None:
    spec = SteeringStudy()
    found = plain(gathered(spec, builtin=True))
    assert [len(v) for v in found.values()] == [100, 48, 128] * 2
    assert gathered(spec, builtin=True) == gathered(spec, builtin=True)


def test_other_models_need_prompts_and_enough_of_them(spec: SteeringStudy, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no harmful prompts"):
        gathered(SteeringStudy(), builtin=False)
    few = PromptSet(path=rows(tmp_path / "few.jsonl", [f"bad thing {i}" for i in range(20)]))
    with pytest.raises(DataError, match="harmful prompts for"):
        gathered(spec.model_copy(update={"harmful": (few,)}), builtin=False)
    with pytest.raises(DataError, match="column 'prompt'"):
        wrong = spec.harmful[0].model_copy(update={"text": "prompt"})
        gathered(spec.model_copy(update={"harmful": (wrong,)}), builtin=False)
