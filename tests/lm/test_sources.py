"""Every format gives the same documents, from any start, and names the row that is wrong."""

from __future__ import annotations

import json
from itertools import islice

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from sae_cli.errors import DataError
from sae_cli.lm import files, hubdata
from sae_cli.lm.sources import documents, source_name
from sae_cli.spec.stages import Source

TEXTS = [f'document {i}, "quoted",\nsecond line é {i}' for i in range(23)]
CHATS = [
    [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"answer {i}"}]
    for i in range(7)
]


def write(path, texts=TEXTS, column="text"):
    rows = [{"id": i, column: text} for i, text in enumerate(texts)]
    table = pa.table({"id": list(range(len(texts))), column: texts})
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2), "utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=5)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".txt":
        path.write_text("\n\n\n".join(texts) + "\n", "utf-8")
    else:
        datasets.Dataset(table).save_to_disk(path)
    return Source(path=str(path))


def texts(source, start=0, limit=None):
    return [d.text for d in islice(documents(source, seed=0, start=start), limit)]


FORMATS = ["c.jsonl", "c.json", "c.parquet", "c.csv", "c.txt", "saved"]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_its_documents_in_order_from_any_start(tmp_path, name):
    source = write(tmp_path / name)
    for start in (0, 1, 5, 11, 22, 23, 40):
        found = list(documents(source, seed=0, start=start))
        assert [d.text for d in found] == TEXTS[start:]
        assert [d.index for d in found] == list(range(start, 23))
        assert all(d.messages is None and d.round == 0 for d in found)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "b.jsonl", TEXTS[5:9])
    write(tmp_path / "a.parquet", TEXTS[:5])
    write(tmp_path / "deep" / "x.txt", TEXTS[9:12])
    (tmp_path / "README.md").write_text("no text of ours")
    (tmp_path / ".cache").mkdir()
    write(tmp_path / ".cache" / "hidden.txt", ["never"])
    source = Source(path=str(tmp_path))
    for start in range(13):
        assert texts(source, start) == TEXTS[start:12]


def test_json_may_also_hold_one_object_per_line(tmp_path):
    path = tmp_path / "c.json"
    path.write_text("\n".join(json.dumps({"text": t}) for t in TEXTS))
    assert texts(Source(path=str(path))) == TEXTS


def test_a_json_array_is_decoded_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PIECE", 7)
    assert texts(write(tmp_path / "c.json")) == TEXTS


def test_documents_longer_than_a_csv_default_field_are_whole(tmp_path):
    long = "word " * 300_000
    assert texts(write(tmp_path / "c.csv", [long, "NA", "17"])) == [long, "NA", "17"]


def test_a_source_that_repeats_starts_over_and_can_be_entered_anywhere(tmp_path):
    source = write(tmp_path / "c.jsonl", TEXTS[:4]).model_copy(update={"repeat": True})
    for start in range(14):
        found = list(islice(documents(source, seed=0, start=start), 6))
        assert [d.text for d in found] == [TEXTS[i % 4] for i in range(start, start + 6)]
        assert [d.index for d in found] == list(range(start, start + 6))
        assert [d.round for d in found] == [i // 4 for i in range(start, start + 6)]


def test_an_empty_source_that_repeats_is_an_error_and_no_endless_loop(tmp_path):
    (tmp_path / "c.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no documents"):
        next(documents(Source(path=str(tmp_path / "c.jsonl"), repeat=True), seed=0))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
def test_messages_are_the_same_from_each_format(tmp_path, suffix):
    path = tmp_path / f"chat{suffix}"
    extra = [
        [*chat[:1], chat[1] | {"tool": "none" if i == 3 else None}] for i, chat in enumerate(CHATS)
    ]
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"chat": chat}) for chat in extra))
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"chat": extra}), path)
    else:
        datasets.Dataset(pa.table({"chat": extra})).save_to_disk(path)
    found = list(documents(Source(path=str(path), messages="chat"), seed=0))
    wanted = [list(chat) for chat in CHATS]
    wanted[3][1] = wanted[3][1] | {"tool": "none"}
    assert [list(d.messages) for d in found] == wanted
    assert all(d.text is None for d in found)


@pytest.mark.parametrize("name", ["c.jsonl", "c.json", "c.parquet", "c.csv", "saved"])
def test_a_missing_column_lists_those_there_are_and_guesses(tmp_path, name):
    source = write(tmp_path / name, column="texts")
    with pytest.raises(DataError) as caught:
        texts(source)
    assert "no column 'text'; it has: id, texts" in str(caught.value)
    assert "did you mean texts?" in str(caught.value)


def test_a_row_of_the_wrong_type_is_named_with_its_file(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "fine"}\n\n{"text": 17}\n')
    with pytest.raises(DataError, match=r"c\.jsonl row 3: column 'text' is of type int"):
        texts(Source(path=str(path)))
    pyarrow.parquet.write_table(pa.table({"text": ["fine", None]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet row 2: column 'text' is empty"):
        texts(Source(path=str(tmp_path / "c.parquet")))
    path.write_text('["a list"]\n')
    with pytest.raises(DataError, match=r"c\.jsonl line 1 is a list"):
        texts(Source(path=str(path)))


@pytest.mark.parametrize("chat", ["hello", [], [{"role": "user"}], [{"role": 1, "content": "x"}]])
def test_messages_without_role_and_content_are_named(tmp_path, chat):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"m": chat}))
    with pytest.raises(DataError, match=r"c\.jsonl row 1: (the messages|message 1)"):
        texts(Source(path=str(path), messages="m"))


def test_malformed_files_are_errors_with_a_place(tmp_path):
    bad = tmp_path / "c.jsonl"
    bad.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"c\.jsonl line 2 is not valid JSON"):
        texts(Source(path=str(bad)))
    (tmp_path / "c.json").write_text('[{"text": "a"}, {"text": "b"')
    with pytest.raises(DataError, match=r"c\.json element 2 is not valid JSON"):
        texts(Source(path=str(tmp_path / "c.json")))
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt can't be read: UnicodeDecodeError"):
        texts(Source(path=str(tmp_path / "latin.txt")))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 this is no parquet file PAR1")
    with pytest.raises(DataError, match=r"c\.parquet can't be read"):
        texts(Source(path=str(tmp_path / "c.parquet")))
    (tmp_path / "ragged.csv").write_text("id,text\n1,a\n2,b,c\n")
    with pytest.raises(DataError, match=r"ragged\.csv can't be read.*Expected 2 columns, got 3"):
        texts(Source(path=str(tmp_path / "ragged.csv")))


def test_what_is_not_there_or_not_readable_says_so(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        texts(Source(path=str(tmp_path / "nowhere.jsonl")))
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(DataError, match="not a kind of file"):
        texts(Source(path=str(tmp_path / "photo.png")))
    with pytest.raises(DataError, match="holds no text file"):
        texts(Source(path=str(tmp_path)))
    (tmp_path / "c.txt").write_text("plain")
    with pytest.raises(DataError, match="plain text and has no column 'chat'"):
        texts(Source(path=str(tmp_path / "c.txt"), messages="chat"))


def test_splits_of_a_saved_dataset_are_told_apart(tmp_path):
    both = {n: datasets.Dataset(pa.table({"text": [n]})) for n in ("train", "dev")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "saved")
    path = str(tmp_path / "saved")
    assert texts(Source(path=path)) == ["train"]
    assert texts(Source(path=path, split="dev")) == ["dev"]
    with pytest.raises(DataError, match="no split 'test'; it has: dev, train"):
        texts(Source(path=path, split="test"))


def test_a_streamed_dataset_starts_anywhere_and_knows_its_columns():
    stream = datasets.Dataset(pa.table({"text": TEXTS})).to_iterable_dataset()
    for start in (0, 4, 23):
        found = list(hubdata.values(stream, "org/set", "text", start))
        assert [value for _, value in found] == TEXTS[start:]
    assert next(hubdata.values(stream, "org/set", "text", 4))[0] == "dataset org/set row 5"
    with pytest.raises(DataError, match="dataset org/set has no column 'body'; it has: text"):
        next(hubdata.values(stream, "org/set", "body", 0))


def test_lone_surrogates_do_not_reach_the_tokenizer(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"text": "half \\ud83d pair"}')
    assert texts(Source(path=str(tmp_path / "c.jsonl"))) == ["half ? pair"]


def test_the_builtin_source_is_endless_and_seeded():
    source = Source(builtin="tiny")
    some = list(islice(documents(source, seed=3), 60))
    later = list(islice(documents(source, seed=3, start=20), 40))
    other = list(islice(documents(source, seed=4), 60))
    assert some[20:] == later
    assert some != other
    assert any(d.messages for d in some)
    assert any(d.text for d in some)
    assert all((d.text is None) != (d.messages is None) for d in some)


def test_sources_have_names_for_people():
    assert source_name(Source(builtin="tiny")) == "builtin tiny"
    assert source_name(Source(path="a/b.jsonl")) == "a/b.jsonl"
    assert source_name(Source(hf="org/set", config="small")) == "org/set (small)"
