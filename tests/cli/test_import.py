"""`saectl import` finds what is in a folder, writes a sweep that validates, and asks for what no
file says, by the name of the option that says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sparsecoders import D_SAE, coder
from torch import Tensor

from sae_cli.cli.import_run import ImportOutput
from sae_cli.errors import OK, USAGE
from sae_cli.spec.load import load
from sae_cli.spec.yaml import load as read_yaml
from sae_cli.store.formats.coder import Coder
from sae_cli.store.formats.registry import FORMATS

D = 64
"""Dimensions of the embedded model's residual stream."""


def sized(given: Coder, model: str = "tiny", d_in: int = D) -> Coder:
    """An SAE for a model of `d_in` dimensions, whatever its numbers."""
    encoder: Tensor = torch.ones(d_in, D_SAE)
    tensors = {
        "W_enc": encoder, "W_dec": torch.nn.functional.normalize(encoder.T, dim=1),
        "b_enc": given.tensors["b_enc"], "b_dec": torch.zeros(d_in),
    }  # fmt: skip
    if "threshold" in given.tensors:
        tensors["threshold"] = given.tensors["threshold"]
    metadata = {**given.metadata, "model_name": model}
    return Coder(tensors, given.arch, given.k, metadata)


def of_control(folder: Path, model: str = "tiny-random7", **recorded: Any) -> Path:
    """An SAE that we released of a model whose weights were drawn anew."""
    made = sized(coder("topk", layer=1), model)
    made.metadata["saectl"]["model"] = {"builtin": "tiny", "reinit": 7, **recorded}  # type: ignore[index]
    FORMATS["sparsify"].write(made, folder)
    return folder


def write(folder: Path, form: str = "sparsify", layer: int = 1, **made: Any) -> Path:
    arch = "jumprelu" if form in ("gemma-scope", "circuit-tracer") else "topk"
    out = {"out_site": "mlp_out", "d_out": 24} if form == "circuit-tracer" else {}
    FORMATS[form].write(sized(coder(arch, layer=layer, **out), **made), folder)
    return folder


def bare(folder: Path) -> None:
    for record in folder.rglob("*saectl*.json"):
        record.unlink()


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_home: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_suite_becomes_a_sweep_of_its_name(saectl: Any, tmp_path: Path) -> None:
    for layer in (0, 2):
        write(tmp_path / "My Suite" / f"layers.{layer}", layer=layer)
    answer = saectl("import", "My Suite")
    assert (answer.code, answer.err) == (OK, "")
    lines = answer.out.splitlines()
    assert lines[1].split() == ["layers.0", "sparsify", "0", "resid_post", "topk", "96", "9", "64"]
    assert lines[-2:] == ["2 SAEs of tiny: sweeps/my-suite.yaml",
                          "next: saectl eval sweeps/my-suite.yaml"]  # fmt: skip
    sweep = load(tmp_path / "sweeps" / "my-suite.yaml")
    assert sweep.spec.name == "my-suite" and sweep.spec.data.context == 128
    assert [(c.model, c.layer, c.site) for c in sweep.cells] == [
        ("tiny", 0, "resid_post"), ("tiny", 2, "resid_post"),
    ]  # fmt: skip
    plan = saectl("plan", "sweeps/my-suite.yaml")
    assert "2 SAEs to import: nothing is trained" in plan.out and plan.code == OK
    validated = saectl("validate", "sweeps/my-suite.yaml")
    assert "ok, 2 SAEs on tiny" in validated.out


def test_as_json_it_is_its_model(saectl: Any, tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "one" / "broken")
    (tmp_path / "one" / "broken" / "sae.safetensors").write_bytes(b"x" * 40)
    said = saectl("import", "one", "--out", "x.yaml", "--json")
    assert said.err == ""
    found = ImportOutput.model_validate(json.loads(said.out))
    (sae,), (lost,) = found.saes, found.left_out
    assert (sae.name, sae.format, sae.layer, sae.site, sae.k) == (
        "one", "sparsify", 1, "resid_post", 9,
    )  # fmt: skip
    assert lost.name == "broken" and "is damaged" in lost.why
    assert found.written and Path(found.file) == Path("x.yaml")


def test_those_that_differ_in_nothing_but_their_folder_are_told_apart(
    saectl: Any, tmp_path: Path
) -> None:
    for name in ("average_l0_12", "average_l0_80"):
        write(tmp_path / "g" / "width_16k" / name, "gemma-scope")
    for name in ("a", "b"):
        write(tmp_path / "g" / name / "same", "gemma-scope", layer=3)
    assert saectl("import", "g").code == OK
    cells = load(tmp_path / "sweeps" / "g.yaml").cells
    labels: list[Any] = [getattr(c.train, "label", None) for c in cells]
    assert labels == ["average_l0_12", "average_l0_80", "a-same", "b-same"]


def test_a_set_of_several_layers_is_a_cell_for_each(saectl: Any, tmp_path: Path) -> None:
    for layer in (0, 1, 2):
        write(tmp_path / "q", "qwen-scope", layer=layer)
    assert saectl("import", "q").code == OK
    cells = load(tmp_path / "sweeps" / "q.yaml").cells
    assert [c.layer for c in cells] == [0, 1, 2]


def test_the_options_say_what_no_file_says(saectl: Any, tmp_path: Path) -> None:
    bare(write(tmp_path / "s").parent)
    for given, missing in (
        ((), "the files do not name their model"),
        (("--model", "tiny"), "nothing says of which layer these are: s"),
        (("--model", "tiny", "--layer", "3"), "nothing says of which site these are: s"),
    ):
        refused = saectl("import", "s", *given)
        assert refused.code == USAGE and missing in refused.err
        option = {0: "--model", 2: "--layer", 4: "--site"}[len(given)]
        assert option in refused.err.splitlines()[-1]
    told = ("--model", "tiny", "--layer", "3", "--site", "mlp_out", "--source", "paper: X")
    assert saectl("import", "s", *told).code == OK
    (cell,) = load(tmp_path / "sweeps" / "s.yaml").cells
    assert (cell.layer, cell.site) == (3, "mlp_out")
    assert getattr(cell.train, "source", None) == "paper: X"


def test_an_option_never_overrules_a_file(saectl: Any, tmp_path: Path) -> None:
    write(tmp_path / "s")
    refused = saectl("import", "s", "--layer", "2")
    assert refused.code == USAGE and "s says layer 1, and --layer says 2" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("s", "--format", "sparsfy"), "did you mean 'sparsify'"),
        (("s", "--format", "gemma-scope"), "no SAEs of gemma-scope, but 1 of sparsify"),
        (("s", "--model", "qwen3-4b"), "reads 64 dimensions, and resid_post of qwen3-4b has 2560"),
        (("s", "--site", "middle"), "--site middle: there are resid_pre"),
        (("s", "--model", "nobody"), "'nobody' is no preset"),
        (("s", "--name", "No Name"), "--name No Name: up to 64 of"),
        (("deep",), "is of layer 9, and tiny has layers 0 to 3"),
        (("two",), "name several models (gemma-2-2b, tiny)"),
        (("theirs",), "the files name the model 'gemma-2-2b' is no preset"),
        (("mixed",), "several formats: 1 of gemma-scope, 1 of sparsify"),
        (("nothing",), "files of weights that are none of theirs: model.safetensors"),
        (("s/cfg.json",), "is a file: give the folder"),
        (("gone/away",), "hf download gone/away --local-dir away"),
        (("./gone",), "there is no folder ./gone"),
        (("evil",), "evil can't be imported"),
    ],
)
def test_what_can_not_be_imported_is_told(
    saectl: Any, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    write(tmp_path / "s")
    write(tmp_path / "deep", layer=9)
    write(tmp_path / "two" / "a")
    write(tmp_path / "two" / "b", model="gemma-2-2b")
    write(tmp_path / "theirs", model="gemma-2-2b")
    write(tmp_path / "mixed" / "a")
    write(tmp_path / "mixed" / "b", "gemma-scope")
    write(tmp_path / "evil", "dictionary_learning")
    torch.save({"encoder.weight": print}, tmp_path / "evil" / "ae.pt")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "model.safetensors").write_bytes(b"")
    answer = saectl("import", *words)
    assert answer.code == USAGE and said in answer.err, answer.err
    assert not (tmp_path / "sweeps").exists()


def test_what_looks_like_a_number_stays_a_text(saectl: Any, tmp_path: Path) -> None:
    for name in ("1e5", "yes"):
        write(tmp_path / "123" / name)
    assert saectl("import", "123", "--source", "on: #1").code == OK
    cells = read_yaml(tmp_path / "sweeps" / "123.yaml").data["matrix"]["include"]
    assert [(c["label"], c["source"]) for c in cells] == [("1e5", "on: #1"), ("yes", "on: #1")]
    assert [getattr(c.train, "label", None) for c in load(Path("sweeps/123.yaml")).cells] == [
        "1e5", "yes",
    ]  # fmt: skip


def test_another_file_is_never_overwritten(saectl: Any, tmp_path: Path) -> None:
    write(tmp_path / "s")
    assert saectl("import", "s").code == OK
    assert "(it was there already)" in saectl("import", "s").out
    sweep = tmp_path / "sweeps" / "s.yaml"
    edited = sweep.read_text() + "# mine\n"
    sweep.write_text(edited)
    refused = saectl("import", "s")
    assert refused.code == USAGE and "is another sweep" in refused.err
    assert sweep.read_text() == edited


@pytest.mark.parametrize("given", [(), ("--model", "tiny-random7")])
def test_an_sae_of_a_model_drawn_anew_is_judged_on_that_model(
    saectl: Any, tmp_path: Path, given: tuple[str, ...]
) -> None:
    of_control(tmp_path / "s")
    answer = saectl("import", "s", *given)
    assert (answer.code, answer.err) == (OK, "")
    file = tmp_path / "sweeps" / "s.yaml"
    assert read_yaml(file).data["models"] == {"tiny-random7": {"builtin": "tiny", "reinit": 7}}
    sweep = load(file)
    (cell,) = sweep.cells
    model = sweep.models[cell.model]
    assert (cell.model, model.builtin, model.reinit) == ("tiny-random7", "tiny", 7)
    assert sweep.spec.data.sources[0].builtin == "tiny", "the text of the model as trained"


def test_one_of_a_hub_model_drawn_anew_keeps_its_commit(saectl: Any, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    of_control(tmp_path / "s", "org/m-random7", builtin=None, hf="org/m", revision=commit)
    answer = saectl("import", "s")
    assert answer.code == OK and "1 SAE of m-random7" in answer.out
    model = load(tmp_path / "sweeps" / "s.yaml").models["m-random7"]
    assert (model.hf, model.revision, model.reinit) == ("org/m", commit, 7)


def test_a_model_drawn_anew_is_never_taken_for_the_trained_one(saectl: Any, tmp_path: Path) -> None:
    of_control(tmp_path / "s")
    refused = saectl("import", "s", "--model", "tiny")
    assert refused.code == USAGE
    assert "of tiny-random7, weights drawn anew (reinit 7), and --model says tiny" in refused.err
    of_control(tmp_path / "folder", "m-random7", builtin=None, digest="0" * 64)
    refused = saectl("import", "folder")
    assert refused.code == USAGE and "which folder is not recorded" in refused.err
    assert "models: {m-random7: {path: FOLDER, reinit: 7}}" in refused.err
    assert not (tmp_path / "sweeps").exists()


def test_a_model_of_another_name_is_told(saectl: Any, tmp_path: Path) -> None:
    write(tmp_path / "s", model="their-tiny")
    answer = saectl("import", "s", "--model", "tiny")
    assert (answer.code, answer.err) == (OK, "the files name their-tiny; judged on tiny\n")
    write(tmp_path / "t", model="somebody/tiny")
    assert saectl("import", "t", "--model", "tiny").err == "", "whose it is, is often left out"
