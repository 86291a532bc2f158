"""`--set` and `--model`: what they change, what they refuse, and that errors name them."""

from __future__ import annotations

import pytest

from sae_cli.errors import SpecError, UsageError

PLAIN = """\
name: plain
data:
  sources:
    - {builtin: tiny, weight: 2}
    - {builtin: tiny}
train: {width: 512}
matrix:
  layer: [1, 2]
  k: [4, 8]
"""


def test_set_changes_a_field_that_is_there_and_one_that_is_not(sweep):
    made = sweep(PLAIN, ("train.width=64", "train.lr=3e-4", "eval.splice=false", "device=cpu"))
    assert {c.train.width for c in made.cells} == {64}
    assert {c.train.lr for c in made.cells} == {3e-4}
    assert made.spec.eval.splice is False
    assert made.spec.device == "cpu"


def test_set_reads_its_value_as_yaml(sweep):
    made = sweep(PLAIN, ("matrix.layer=[0, 3]", "matrix.sae=[{lr: 1e-3}, {lr: 2e-3}]"))
    assert [c.layer for c in made.cells] == [0] * 4 + [3] * 4
    assert {c.train.lr for c in made.cells} == {1e-3, 2e-3}
    assert sweep(PLAIN, ('release.title="no"',)).spec.release.title == "no"
    assert sweep(PLAIN, ("release.title=a = b",)).spec.release.title == "a = b"


def test_set_reaches_into_lists(sweep):
    made = sweep(PLAIN, ("data.sources.1.weight=5", "matrix.k.0=16"))
    assert [s.weight for s in made.spec.data.sources] == [2, 5]
    assert [c.train.k for c in made.cells] == [16, 8, 16, 8]


def test_the_last_set_wins_and_an_empty_one_means_null(sweep):
    made = sweep(PLAIN, ("train.grad_clip=2", "train.grad_clip=3", "train.lr="))
    assert {c.train.grad_clip for c in made.cells} == {3.0}
    assert {c.train.lr for c in made.cells} == {None}
    assert {c.train.grad_clip for c in sweep(PLAIN, ("train.grad_clip=",)).cells} == {None}


def test_set_mends_a_key_that_the_file_gives_twice(sweep):
    twice = PLAIN + "eval: {tokens: 1, tokens: 2}\n"
    with pytest.raises(SpecError, match=r"eval\.tokens: this key was already given"):
        sweep(twice)
    assert sweep(twice, ("eval.tokens=3",)).spec.eval.tokens == 3


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.width", "write --set section.field=value"),
        ("=3", "write --set section.field=value"),
        ("train..width=3", "write --set section.field=value"),
        ("data.sources.2.weight=1", "data.sources is a list of 2, it has no entry '2' (from 0)"),
        ("data.sources.first.weight=1", "data.sources is a list of 2, it has no entry 'first'"),
        ("matrix.layer.-1=0", "matrix.layer is a list of 2, it has no entry '-1' (from 0)"),
        ("name.first=x", "name is a single value, it holds no 'first'"),
        ("train.width.x=1", "train.width is a single value, it holds no 'x'"),
        ("release.authors.0=Ada", "the file has no list release.authors to change"),
    ],
)
def test_a_set_that_leads_nowhere_is_refused(sweep, assignment, said):
    with pytest.raises(UsageError) as caught:
        sweep(PLAIN, (assignment,))
    assert str(caught.value).startswith(f"--set {assignment}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        (
            "train.widht=8",
            "--set train.widht=8: train.widht: unknown key  did you mean 'width'?",
        ),
        ("eval.tokens=many", "--set eval.tokens=many: eval.tokens: 'many' is not a whole number"),
        (
            "data={tokenz: 3}",
            "--set data={tokenz: 3}: data.tokenz: unknown key  did you mean 'tokens'?",
        ),
        (
            "matrix.layer=[1, 9]",
            "--set matrix.layer=[1, 9]: matrix.layer.1: layer 9 is out of range: tiny has layers "
            "0 to 3",
        ),
        ("train.lr=[1", "--set train.lr:1:3: not valid YAML: "),
        ("train={k: 1, k: 2}", "--set train:1:8: k: this key was already given at line 1"),
    ],
)
def test_a_wrong_value_is_blamed_on_the_set_that_said_it(sweep, assignment, said):
    with pytest.raises(SpecError) as caught:
        sweep(PLAIN, (assignment,))
    assert str(caught.value).startswith(said)


MANY_MODELS = """\
name: many
train: {width: 512}
matrix:
  model: [qwen3-1.7b, qwen3-4b]
  layer: [1, 2]
  site: [resid_post, mlp_out]
  exclude:
    - {model: qwen3-4b, layer: 1}
    - {layer: 2, site: mlp_out}
  include:
    - {model: qwen3-1.7b, layer: 27, site: attn_out}
"""


def test_model_replaces_the_models_of_the_sweep(sweep):
    assert {c.model for c in sweep(PLAIN, model="qwen3-4b").cells} == {"qwen3-4b"}
    assert set(sweep(PLAIN, model="qwen3-4b").models) == {"qwen3-4b"}


def test_with_model_what_names_another_model_no_longer_applies(sweep):
    made = sweep(MANY_MODELS, model="tiny")
    assert [(c.model, c.layer, c.site) for c in made.cells] == [
        ("tiny", 1, "resid_post"),
        ("tiny", 1, "mlp_out"),
        ("tiny", 2, "resid_post"),
    ]


def test_with_model_what_names_that_model_still_applies(sweep):
    made = sweep(MANY_MODELS, model="qwen3-1.7b")
    places = [(c.layer, c.site) for c in made.cells]
    assert (27, "attn_out") in places
    assert {c.model for c in made.cells} == {"qwen3-1.7b"}


def test_model_may_be_a_name_of_the_sweep_a_folder_or_a_hub_id(sweep, tmp_path, monkeypatch):
    own = PLAIN + "models: {mine: {hf: a/b, revision: r}}\n"
    assert sweep(own, model="mine").models["mine"].revision == "r"
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"n_layer": 3, "n_embd": 48, "n_head": 3}')
    monkeypatch.chdir(tmp_path)
    made = sweep(PLAIN, model="./gpt")
    assert made.models["./gpt"].path == str(tmp_path / "gpt")
    facts = made.facts["./gpt"]
    assert facts is not None and (facts.n_layers, facts.d_model, facts.head_dim) == (3, 48, 16)
    assert sweep(PLAIN, model="org/name").models["org/name"].hf == "org/name"


def test_with_model_a_broken_entry_is_still_told_as_such(sweep):
    with pytest.raises(SpecError, match=r"matrix\.exclude\.0: 3 is not a mapping of keys"):
        sweep(PLAIN + "  exclude: [3]\n", model="qwen3-4b")


def test_a_model_that_is_wrong_on_the_command_line_is_not_blamed_on_the_file(sweep):
    with pytest.raises(SpecError) as caught:
        sweep(PLAIN, model="qwen3-4")
    assert str(caught.value).startswith("--model qwen3-4: model: 'qwen3-4' is no preset")
    assert str(caught.value).endswith("did you mean 'qwen3-4b'?")
