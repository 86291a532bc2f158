"""Studies that can't be made of a sweep's models or text are refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_cli.errors import SpecError
from sae_cli.spec.load import load

TINY = "name: x\nmatrix: {layer: [1]}\nstudies: {STUDY: {}}\n"
OTHER = """\
name: x
models: {other: {path: MODEL}}
matrix: {model: [tiny, other], layer: [1]}
studies: {STUDY: {}}
"""


def told(text: str, folder: Path) -> str:
    file = folder / "x.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as raised:
        load(file)
    return str(raised.value)


@pytest.mark.parametrize("study", ["truth", "localisation"])
def test_another_model_than_the_embedded_one_has_no_labels(study: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"n_layer": 2, "n_embd": 16, "n_head": 2}')
    said = told(OTHER.replace("MODEL", str(model)).replace("STUDY", study), tmp_path)
    assert f"studies.{study}: {study} knows the embedded model's language alone" in said
    assert "and other is another" in said


def test_labels_are_of_the_built_in_text_alone(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n')
    own = f"data: {{sources: [{{path: {tmp_path / 't.jsonl'}}}]}}\n"
    said = told(TINY.replace("STUDY", "truth") + own, tmp_path)
    assert "studies.truth: only the built-in text, as it is, has labels" in said


def test_the_embedded_model_has_both(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(TINY.replace("STUDY: {}", "truth: {}, localisation: {}"), encoding="utf-8")
    assert [each.study for each in load(file).spec.studies.asked()] == ["truth", "localisation"]
