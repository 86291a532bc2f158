"""The JSON schema of a sweep: valid, shipped, and of one mind with the spec itself."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest

from sae_cli.errors import FAILED, OK
from sae_cli.spec import yaml
from sae_cli.spec.fragment import TRAIN_FIELDS
from sae_cli.spec.presets import shipped_folder

SHIPPED = sorted(shipped_folder().glob("*.yaml"))


@pytest.fixture
def schema(saectl):
    answer = saectl("schema")
    assert (answer.code, answer.err) == (OK, "")
    return json.loads(answer.out)


@pytest.fixture
def check(schema):
    return jsonschema.Draft202012Validator(schema).validate


def test_it_is_a_valid_schema_that_documents_every_field(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = {"": schema, **schema["$defs"]}
    silent = [
        f"{part}.{name}"
        for part, described in parts.items()
        for name, field in described.get("properties", {}).items()
        if not field.get("description")
    ]
    assert silent == []


def test_the_shipped_schema_is_the_current_one(saectl):
    file = shipped_folder() / "sweep.schema.json"
    assert saectl("schema", "--check", file).code == OK, "saectl schema > sweeps/sweep.schema.json"


def test_check_refuses_another_schema(saectl, tmp_path):
    (tmp_path / "old.json").write_text("{}")
    for file in ("old.json", "none.json"):
        answer = saectl("schema", "--check", tmp_path / file)
        assert (answer.code, answer.out) == (FAILED, "")
        assert "is not the current schema" in answer.err


@pytest.mark.parametrize("file", SHIPPED, ids=lambda p: p.stem)
def test_it_accepts_every_sweep_that_ships_and_each_names_it(check, file):
    check(yaml.load(file).data)
    first = file.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=sweep.schema.json"


BASE = {
    "name": "x",
    "data": {"sources": [{"builtin": "tiny"}], "mask": {"special": True}},
    "train": {"arch": "topk", "k": 4, "lr": None},
    "models": {"mine": {"hf": "a/b"}},
    "matrix": {
        "layer": [1],
        "sae": [{"arch": "jumprelu", "l0": 3}],
        "exclude": [{"layer": 1}],
        "include": [{"depth": 0.5, "site": "mlp_out"}],
    },
}


def changed(path, value):
    data = copy.deepcopy(BASE)
    here = data
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return data


def test_it_accepts_what_the_spec_accepts(check):
    check(BASE)
    check(changed(("matrix", "layer"), "all"))
    check(changed(("train", "grad_clip"), None))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nmae",), "x"),
        (("data", "tokenz"), 3),
        (("data", "sources", 0, "weigth"), 3),
        (("data", "mask", "specail"), True),
        (("models", "mine", "hff"), "a/b"),
        (("train", "widht"), 64),
        (("matrix", "layers"), [1]),
        (("matrix", "sae", 0, "arhc"), "topk"),
        (("matrix", "exclude", 0, "sites"), "mlp_out"),
        (("matrix", "include", 0, "lyer"), 1),
        (("name",), "No Spaces"),
        (("device",), "gpu"),
        (("data", "tokens"), "many"),
        (("data", "tokens"), 0),
        (("train", "arch"), "top_k"),
        (("train", "arch"), None),
        (("matrix", "layer"), []),
        (("matrix", "layer"), "every"),
        (("matrix", "layer"), [-1]),
        (("matrix", "site"), ["resid_pots"]),
        (("eval",), None),
    ],
)
def test_it_rejects_what_the_spec_rejects(check, path, value):
    with pytest.raises(jsonschema.ValidationError):
        check(changed(path, value))


def test_every_training_field_is_an_axis_and_a_field_of_fragments(schema):
    for part in ("TrainFragment", "CellFragment", "MatrixSpec"):
        assert set(TRAIN_FIELDS) <= set(schema["$defs"][part]["properties"])
