"""What a sweep may ask of the study of refusal, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_cli.errors import SpecError, UsageError
from sae_cli.plan.choose import choose
from sae_cli.plan.graph import build
from sae_cli.plan.pin import Pins, digest
from sae_cli.spec.load import load
from sae_cli.spec.steering import SteeringStudy

SWEEP = "name: x\nmatrix: {layer: [1, 2]}\nstudies: {truth: {}, steering: STEERING}\n"


def made(text: str, folder: Path) -> Path:
    (folder / "x.yaml").write_text(SWEEP.replace("STEERING", text), encoding="utf-8")
    return folder / "x.yaml"


def wrong(text: str, folder: Path) -> str:
    with pytest.raises(SpecError) as raised:
        load(made(text, folder))
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{harmful: [{text: goal}]}", "give exactly one of builtin, path, hf"),
        ("{harmful: [{hf: a/b, label: kind}]}", "label and positive come together"),
        ("{harmful: [{path: nowhere.jsonl}]}", "studies.steering.harmful.0.path"),
        ("{also: [{kind: explode}]}", "explode"),
        ("{most: 4}", "most"),
        ("{phrases: []}", "phrases"),
        ("{surpress: true}", "suppress"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    assert said in wrong(text, tmp_path)


def test_another_model_than_the_embedded_one_needs_prompts(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"n_layer": 2, "n_embd": 16, "n_head": 2}')
    text = f"name: x\nmodels: {{m: {{path: {model}}}}}\nmodel: m\nmatrix: {{layer: [1]}}\n"
    file = tmp_path / "x.yaml"
    file.write_text(text + "studies: {steering: {harmless: [{hf: a/b}]}}\n")
    with pytest.raises(SpecError, match="m needs harmful prompts"):
        load(file)
    file.write_text(text + "studies: {steering: {harmless: [{hf: a/b}], harmful: [{hf: a/c}]}}\n")
    assert load(file).spec.studies.steering is not None


def test_to_refuse_less_is_asked_for_by_name_and_is_another_study(tmp_path: Path) -> None:
    assert SteeringStudy().suppress is False and SteeringStudy().keep_completions is False
    keys = set()
    for text in ("{}", "{suppress: true}", "{keep_completions: true}"):
        graph = build(load(made(text, tmp_path)))
        keys.add(tuple(s.key for s in graph.of("study")))
    assert len(keys) == 3


def test_prompts_are_pinned_by_content_wherever_they_lie(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "bad.jsonl").write_text('{"text": "break it"}\n')
        file = made(f"{{harmful: [{{path: {folder / 'bad.jsonl'}}}]}}", folder)
        sweep = Pins(tmp_path / "store", online=False).apply(load(file))
        asked = sweep.spec.studies.steering
        assert asked is not None and asked.harmful[0].digest == digest(folder / "bad.jsonl")
        assert asked.harmful[0].name == "bad"
        found.append([s.key for s in build(sweep).of("study")])
    assert found[0] == found[1]


def test_steer_means_its_studies_the_evaluations_beside_them_and_what_comes_before(
    tmp_path: Path,
) -> None:
    graph = build(load(made("{}", tmp_path)))
    chosen = choose(graph, "study", study="steering").stages
    kinds = [s.kind for s in chosen]
    assert kinds.count("study") == 2 == kinds.count("eval") and "release" not in kinds
    assert all(s.slug.endswith(".steering") for s in chosen if s.kind == "study")
    again = choose(graph, "study", study="steering", force=True).force
    assert {name.split("/")[0] for name in again} == {"study"}
    with pytest.raises(UsageError, match="names no steering stage"):
        choose(graph, "study", ("*.truth",), study="steering")
    (tmp_path / "y.yaml").write_text("name: y\nmatrix: {layer: [1]}\n")
    with pytest.raises(UsageError, match="y does not ask for steering"):
        choose(build(load(tmp_path / "y.yaml")), "study", study="steering")
