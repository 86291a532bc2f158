"""Commit logs in a bucket: the lines of a folder, one writer each, few requests to read them."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from s3server import S3Server

from sae_cli.errors import StoreError
from sae_cli.store.buckets.client import Bucket
from sae_cli.store.buckets.files import ObjectFiles
from sae_cli.store.tables.commits import encode, read_commits
from sae_cli.store.tables.files import Files, LocalFiles
from sae_cli.store.tables.journal import join, open_part, read_entries


def test_the_lines_in_a_bucket_are_those_of_a_folder(s3_url: str, tmp_path: Path) -> None:
    places: list[Files] = [LocalFiles(tmp_path), ObjectFiles(s3_url)]
    for files in places:
        log = files.log("c/log")
        for k in range(12):
            log.append({"k": k, "ü": [k / 7]})
        log.close()
    local, remote = places
    lines = [remote.get(f"c/log.jsonl/{name}") for name in remote.names("c/log.jsonl")]
    assert b"".join(line or b"" for line in lines) == local.get("c/log.jsonl")
    assert remote.read_log("c/log") == log.entries == read_commits(tmp_path / "c/log.jsonl")


@pytest.mark.parametrize("harm", ["torn", "flipped", "gone", "two lines", "foreign"])
def test_a_log_ends_before_what_is_not_good(s3_url: str, harm: str) -> None:
    files = ObjectFiles(s3_url)
    log = files.log("log")
    for k in range(5):
        log.append({"k": k})
    third = "log.jsonl/00000002.json"
    data = files.get(third) or b""
    if harm == "gone":
        files.delete(third)
    elif harm == "foreign":
        files.put("log.jsonl/00000001.json.bak", b"?")
    else:
        harmed = {"torn": data[:-3], "flipped": b'{"k":7' + data[6:], "two lines": 2 * data}[harm]
        files.put(third, harmed)
    assert [e["k"] for e in files.read_log("log")] == [0, 1]
    log = files.log("log")
    assert files.names("log.jsonl") == ["00000000.json", "00000001.json"]
    for k in range(2, 5):
        log.append({"k": k})
    assert [e["k"] for e in files.read_log("log")] == list(range(5))


def test_the_second_writer_of_a_line_is_told(s3_url: str) -> None:
    first, second = ObjectFiles(s3_url).log("c/log"), ObjectFiles(s3_url).log("c/log")
    first.append({"k": 0})
    for _ in range(2):
        with pytest.raises(StoreError, match=r"another process is writing .*/c/log") as caught:
            second.append({"k": 0})
        assert "its committed shards are kept" in (caught.value.hint or "")
    assert second.entries == []
    first.append({"k": 1})
    assert [e["k"] for e in ObjectFiles(s3_url).read_log("c/log")] == [0, 1]


def test_of_many_who_make_an_object_one_succeeds(s3_url: str) -> None:
    bucket = Bucket(s3_url)
    for k in range(10):
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda j, k=k: bucket.create(str(k), b"%d" % j), range(8)))
        assert made.count(True) == 1 and bucket.get(str(k)) == b"%d" % made.index(True)


def test_a_line_that_arrived_unanswered_is_ours(s3: S3Server, s3_url: str) -> None:
    """The PUT gets through and its answer does not: a proxy hangs up in between."""
    files, line = ObjectFiles(s3_url), {"k": 0}
    with hanging_up(s3) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        log = ObjectFiles(s3_url).log("ours")
        log.append(line)
        log.append({"k": 1})
    assert files.get("ours.jsonl/00000000.json") == encode(line)
    assert [e["k"] for e in files.read_log("ours")] == [0, 1]


@contextmanager
def hanging_up(s3: S3Server) -> Iterator[str]:
    """A way to the server that hangs up instead of passing the answer to the first PUT."""
    there = int(s3.endpoint.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0))
    put_seen, hung_up = threading.Event(), threading.Event()

    def pass_on(source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):  # the other end hung up
            while data := source.recv(2**16):
                if answers and put_seen.is_set() and not hung_up.is_set():
                    hung_up.set()
                    break
                if data.startswith(b"PUT "):
                    put_seen.set()
                target.sendall(data)
            for end in (source, target):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client = listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", there))
                for ends in ((client, server, False), (server, client, True)):
                    threading.Thread(target=pass_on, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert hung_up.is_set()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many requests buckets made, by what for."""
    ask, count = Bucket._ask, Counter[str]()

    def counted(self: Bucket, doing: str, *rest: Any) -> Any:
        count[doing] += 1
        return ask(self, doing, *rest)

    monkeypatch.setattr(Bucket, "_ask", counted)
    return count


def test_commits_are_asked_for_once_and_then_only_what_is_new(
    s3_url: str, asked: Counter[str]
) -> None:
    ks, logs = range(40), []
    for n in range(4):
        logs.append(open_part(ObjectFiles(s3_url), range(10 * n, 10 * n + 10)))
        for k in ks[10 * n : 10 * n + 10]:
            logs[n].append({"table": "t", "k": k, "rows": 1})
    for new in (40, 0, 0):
        asked.clear()
        found = read_entries(ObjectFiles(s3_url))
        assert [e["k"] for e in found] == list(ks)
        assert asked == Counter(list=1, read=new + 1)  # and one for the joined log
    logs[2].append({"table": "t", "k": 40, "rows": 1})
    asked.clear()
    assert len(read_entries(ObjectFiles(s3_url))) == 41
    assert asked == Counter(list=1, read=2)
    asked.clear()
    assert len(ObjectFiles(s3_url).log("commits/000020-000030").entries) == 11
    assert asked == Counter(list=1)
    join(ObjectFiles(s3_url), read_entries(ObjectFiles(s3_url)))
    asked.clear()
    assert len(read_entries(ObjectFiles(s3_url))) == 41
    assert asked == Counter(list=1, read=1)


def test_a_line_that_was_read_is_not_taken_for_a_later_one_of_its_name(s3_url: str) -> None:
    files = ObjectFiles(s3_url)
    for n in range(3):
        log = files.log("commits/0-9")
        for k in range(3):
            log.append({"table": "t", "k": (k + n) % 3, "rows": 1})
        assert [e["k"] for e in files.read_log("commits/0-9")] == [(k + n) % 3 for k in range(3)]
        assert [e["k"] for e in files.read_logs("commits")] == [(k + n) % 3 for k in range(3)]
        files.drop_log("commits/0-9")
    assert files.read_logs("commits") == []
