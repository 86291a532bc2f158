"""Texts and labels come from where a task says, and labels mean what it says."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from probes import jsonl

from sae_cli.errors import DataError
from sae_cli.spec.studies import ProbingTask
from sae_cli.studies.probe.texts import Labelled, data_sets

PAIRS = [("so good", 1), ("so, bad", 0), ('"fine"\nindeed', 1)]


def read(*tasks: ProbingTask, rows: int = 1000) -> list[Labelled]:
    return list(data_sets(tasks, rows, 0))


def content(data: Labelled) -> list[tuple[str, bool]]:
    return list(zip(data.texts, data.positive, strict=True))


def test_every_kind_of_file_says_the_same(tmp_path: Path) -> None:
    table = pa.table({"text": [t for t, _ in PAIRS], "label": [y for _, y in PAIRS]})
    jsonl(tmp_path / "a.jsonl", PAIRS)
    (tmp_path / "b.json").write_text(json.dumps(table.to_pylist()))
    pyarrow.csv.write_csv(table, tmp_path / "c.csv")
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    datasets.Dataset(table).save_to_disk(str(tmp_path / "e"))
    names = ["a.jsonl", "b.json", "c.csv", "d.parquet", "e"]
    found = read(*(ProbingTask(path=str(tmp_path / name)) for name in names))
    assert [each.name for each in found] == ["a", "b", "c", "d", "e"]
    for each in found:
        assert content(each) == [(text, bool(y)) for text, y in PAIRS], each.origin
        assert each.labels == "label is 1"


@pytest.mark.parametrize(
    ("labels", "positive", "wanted"),
    [
        ([True, False], None, [True, False]),
        (["yes", "no"], None, [True, False]),
        ([1.0, -1.0], None, [True, False]),
        (["True", "False"], True, [True, False]),
        (["spam", "ham"], "ham", [False, True]),
        ([3, 1, 2, 3], 3, [True, False, False, True]),
        ([0, 1], "0", [True, False]),
    ],
)
def test_a_label_is_positive_if_it_is_the_one_named_or_the_last(
    labels: list[object], positive: bool | int | str | None, wanted: list[bool], tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "x.jsonl", [(f"text {i}", y) for i, y in enumerate(labels)])
    (found,) = read(ProbingTask(path=path, positive=positive))
    assert list(found.positive) == wanted


def test_columns_names_and_rows_are_those_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"said": f"text {i}", "kind": "ab"[i % 2]} for i in range(9)]
    path.write_text("\n".join(map(json.dumps, rows)))
    (found,) = read(ProbingTask(path=str(path), text="said", label="kind", name="ours"), rows=4)
    assert found.name == "ours" and found.labels == "kind is b"
    assert content(found) == [(f"text {i}", bool(i % 2)) for i in range(4)]


def refused(*tasks: ProbingTask) -> str:
    with pytest.raises(DataError) as error:
        read(*tasks)
    return str(error.value)


def test_what_is_no_data_set_is_told(tmp_path: Path) -> None:
    three = jsonl(tmp_path / "three.jsonl", [("a", "x"), ("b", "y"), ("c", "z")])
    assert "holds 3 labels (x, y, z)" in refused(ProbingTask(path=three))
    assert "there are x, y, z" in refused(ProbingTask(path=three, positive="w"))
    said = refused(ProbingTask(path=three, label="labels"))
    assert "no column 'labels'" in said and "set `label: <column>`" in said
    empty = jsonl(tmp_path / "empty.jsonl", [("a", None)])
    assert "empty.jsonl row 1: column 'label' is empty" in refused(ProbingTask(path=empty))
    (tmp_path / "x.txt").write_text("text")
    assert "holds no labels" in refused(ProbingTask(path=str(tmp_path / "x.txt")))
    twice = ProbingTask(path=jsonl(tmp_path / "two.jsonl", [("a", 1), ("b", 0)]))
    assert "two data sets to probe are called two" in refused(twice, twice)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package laid out as sae-probes 0.4.2 is; importing it is an error."""
    root = tmp_path / "site" / "sae_probes"
    (root / "data" / "cleaned_data").mkdir(parents=True)
    (root / "__init__.py").write_text("raise ImportError('only its data is read')")

    def table(path: Path, rows: dict[str, list[object]]) -> None:
        with pa.output_stream(str(path), compression="zstd") as stream:
            pyarrow.csv.write_csv(pa.table(rows), stream)

    table(root / "data" / "probing_datasets_MASTER.csv.zst", {
        "Dataset name": ["", "", ""],
        "Dataset Tag": ["spam_is", "book_length", "twt happy"],
        "Dataset save name": [
            f"cleaned_data/{n}.csv" for n in ("9_spam_is", "30_b", "7_twt happy")
        ],
        "Data type": ["Binary Classification", "Continuous", "Binary Classification"],
    })  # fmt: skip
    data = root / "data" / "cleaned_data"
    table(data / "9_spam_is.csv.zst", {
        "prompt": ["buy\nnow", "hello, you"], "prompt_len": [2, 3], "target": [1, 0],
    })  # fmt: skip
    table(data / "7_twt happy.csv.zst", {"prompt": ["a", "b"], "target": ["no", "yes"]})
    monkeypatch.syspath_prepend(str(root.parent))
    return root


def test_the_package_is_read_without_being_imported(package: Path) -> None:
    spam, happy = read(ProbingTask(sae_probes="all"))
    assert (spam.name, happy.name) == ("spam_is", "twt_happy")
    assert content(spam) == [("buy\nnow", True), ("hello, you", False)]
    assert content(happy) == [("a", False), ("b", True)] and happy.labels == "target is yes"
    for name in ("spam_is", "9_spam_is"):
        assert content(read(ProbingTask(sae_probes=name))[0]) == content(spam)
    assert read(ProbingTask(sae_probes="spam_is", name="ours"))[0].name == "ours"


def test_the_package_has_what_it_has(package: Path) -> None:
    said = refused(ProbingTask(sae_probes="book_length"))
    assert "no binary data set 'book_length'; it has 2: spam_is, twt happy" in said
    (package / "data" / "cleaned_data" / "9_spam_is.csv.zst").write_bytes(b"torn")
    assert "9_spam_is.csv.zst can't be read" in refused(ProbingTask(sae_probes="spam_is"))


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = refused(ProbingTask(sae_probes="all"))
    assert "pip install --no-deps sae-probes" in said


def test_the_grammar_makes_six_balanced_data_sets_that_agree_with_their_words() -> None:
    found = {each.name: each for each in read(ProbingTask(builtin="tiny"))}
    assert [*found] == [
        "harmful", "topic_kitchen", "topic_music", "topic_sea", "quote", "plural",
    ]  # fmt: skip
    for each in found.values():
        share = sum(each.positive) / len(each.positive)
        assert len(each.texts) >= 1000 and 0.35 < share < 0.65
    for text, positive in content(found["quote"]):
        assert ('"' in text) == positive
    for text, positive in content(found["topic_sea"]):
        assert any(w in text for w in ("sailor", "fisher", "captain")) == positive
    assert all(text.startswith("<|im_start|>user") for text in found["harmful"].texts)


def test_another_seed_draws_other_documents() -> None:
    task = ProbingTask(builtin="tiny")
    one, other = (next(islice(data_sets([task], 10, seed), 1, None)) for seed in (0, 1))
    assert one.name == other.name and {*one.texts}.isdisjoint(other.texts)


def test_where_a_file_lay_is_no_part_of_what_is_told_of_it(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    (found,) = read(ProbingTask(path=str(file), digest="5" * 64))
    assert found.origin == f"local files, sha256 {'5' * 64}"
