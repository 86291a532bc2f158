"""Files in a bucket, on a real S3 server that is killed while they are written and read."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from s3server import BUCKET, KEY, SECRET, S3Server

from sae_cli.errors import StoreError
from sae_cli.store.answers import explained, may_pass, reason
from sae_cli.store.bucket import Bucket
from sae_cli.store.commits import encode, read_commits
from sae_cli.store.files import Files, LocalFiles
from sae_cli.store.objects import ObjectFiles, files_at


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """Both places keep the same promises."""
    if request.param == "folder":
        return files_at(tmp_path / "files")
    return files_at(request.getfixturevalue("s3_url"))


@contextmanager
def killing(s3: S3Server, times: int, seed: int) -> Iterator[Callable[[], bool]]:
    """Kill the server at random moments and start it again; gives whether that still goes on."""
    rng = random.Random(seed)

    def kill() -> None:
        for _ in range(times):
            time.sleep(rng.uniform(0.1, 1.0))
            s3.kill()
            time.sleep(rng.uniform(0.0, 0.3))
            s3.start()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killer.is_alive
    finally:
        killer.join()


def body(k: int) -> bytes:
    """What object `k` holds: a pure function of k."""
    rng = np.random.default_rng(k)
    return rng.bytes(int(rng.integers(1, 2**21)))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        act()
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return str(caught.value)


def test_a_file_comes_back_whole_and_in_ranges(files: Files) -> None:
    files.put("a/b.json", b"old")
    files.put("a/b.json", memoryview(b"new"))
    files.put("a/empty", b"")
    assert files.get("a/b.json") == b"new" and files.get("a/empty") == b""
    assert (files.size("a/b.json"), files.size("a/empty")) == (3, 0)
    assert files.names("a") == ["b.json", "empty"]
    part = files.map("a/b.json", 1, 2)
    assert part.tobytes() == b"ew"
    part[:] = 0
    assert files.get("a/b.json") == b"new"


def test_what_is_not_there_is_said_so(files: Files) -> None:
    assert files.get("no") is None and files.size("no") is None and files.names("no") == []
    files.delete("no")
    with pytest.raises(StoreError, match="no"):
        files.map("no", 0, 1)
    files.put("short", b"123")
    for offset, size in ((2, 2), (3, 1), (9, 1)):
        with pytest.raises(StoreError, match="short"):
            files.map("short", offset, size)
    files.delete("short")
    assert files.get("short") is None


def test_an_upload_is_seen_when_it_is_finished_and_not_before(files: Files) -> None:
    upload = files.create("x/y/c.0.0")
    upload.write(b"one ")
    pieces = np.arange(6, dtype=np.uint16)
    upload.write(memoryview(pieces))
    assert files.get("x/y/c.0.0") is None and files.names("x/y") == []
    upload.finish()
    upload.abort()
    assert files.get("x/y/c.0.0") == b"one " + pieces.tobytes()
    dropped = files.create("x/y/other")
    dropped.write(b"gone")
    dropped.abort()
    dropped.abort()
    assert files.names("x/y") == ["c.0.0"]


def test_a_large_file_comes_back(s3_url: str) -> None:
    files, data = ObjectFiles(s3_url), np.random.default_rng(0).bytes(40 * 2**20)
    upload = files.create("large")
    for start in range(0, len(data), 2**22):
        upload.write(data[start : start + 2**22])
    upload.finish()
    assert files.size("large") == len(data)
    assert files.map("large", 0, len(data)).tobytes() == data
    assert files.map("large", 12345, 2**22).tobytes() == data[12345 : 12345 + 2**22]


@pytest.mark.parametrize("name", ["Ünï/日本 x", "a+b/%41&?#=", "dots.0.0/c.1.0"])
def test_any_name_is_itself(files: Files, name: str) -> None:
    files.put(name, b"here")
    folder, _, base = name.partition("/")
    assert files.names(folder) == [base] and files.get(name) == b"here"


def test_a_listing_is_one_folder_sorted_and_complete(files: Files) -> None:
    wanted = [f"c.{n}.0" for n in range(1200 if isinstance(files, ObjectFiles) else 50)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: files.put(f"f/{name}", b"."), wanted))
    files.put("f/deeper/other", b".")
    files.put("f2", b".")
    assert files.names("f") == sorted(wanted)


def test_prefixes_do_not_see_each_other(s3: S3Server, s3_url: str) -> None:
    one, two = ObjectFiles(f"{s3_url}/one"), ObjectFiles(f"{s3_url}/one-more/ü x%20/")
    one.put("f/a", b"1")
    two.put("f/b", b"2")
    one.log("commits/0-1").append({"k": 0})
    assert (one.names("f"), two.names("f"), two.logs("commits")) == (["a"], ["b"], [])
    assert ObjectFiles(s3_url).get("one-more/ü x%20/f/b") == b"2"
    assert one.where("f/a") == f"{s3_url}/one/f/a"


def test_a_log_grows_line_by_line_and_is_found_and_dropped(files: Files) -> None:
    files.put("commits/no-log", b".")
    for name in ("commits/000000-000003", "commits/000003-000006"):
        log = files.log(name)
        for k in range(3):
            log.append({"k": k, "x": 0.1})
        assert [e["k"] for e in log.entries] == [0, 1, 2]
        log.close()
        log.close()
    assert files.logs("commits") == ["commits/000000-000003", "commits/000003-000006"]
    again = files.log("commits/000000-000003")
    again.append({"k": 3, "x": 0.1})
    again.close()
    assert [e["k"] for e in files.read_log("commits/000000-000003")] == [0, 1, 2, 3]
    files.drop_log("commits/000000-000003")
    files.drop_log("commits/000000-000003")
    assert files.logs("commits") == ["commits/000003-000006"]
    assert files.read_log("commits/000000-000003") == []


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


def test_an_outage_costs_time_and_nothing_else(s3: S3Server, s3_url: str) -> None:
    files, k = ObjectFiles(s3_url), 0
    log, rng = files.log("log"), random.Random(0)
    with killing(s3, times=4, seed=1) as going:
        while going():
            upload = files.create(f"c/{k}")
            upload.write(body(k))
            upload.finish()
            log.append({"k": k})
            old = rng.randrange(k + 1)
            data = body(old)
            offset = rng.randrange(len(data))
            assert files.map(f"c/{old}", offset, len(data) - offset).tobytes() == data[offset:]
            assert files.size(f"c/{old}") == len(data)
            assert len(files.names("c")) == len(files.read_log("log")) == k + 1
            k += 1
    s3.kill()
    s3.start()
    assert k > 4
    assert [e["k"] for e in files.read_log("log")] == list(range(k))
    assert all(files.get(f"c/{n}") == body(n) for n in range(k))


def test_threads_share_a_place_through_an_outage(s3: S3Server, s3_url: str) -> None:
    files = ObjectFiles(s3_url)

    def work(lane: int) -> int:
        log, n = files.log(f"commits/{lane}"), 0
        while going() or n == 0:
            files.put(f"{lane}/{n}", body(100 * lane + n))
            log.append({"lane": lane, "n": n})
            n += 1
        return n

    with killing(s3, times=2, seed=2) as going, ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, range(4)))
    assert [len(files.read_log(f"commits/{lane}")) for lane in range(4)] == done
    for lane, n in enumerate(done):
        assert all(files.get(f"{lane}/{i}") == body(100 * lane + i) for i in range(n))


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


def test_a_store_that_stays_away_is_an_error_that_says_so(s3: S3Server, s3_url: str) -> None:
    files = ObjectFiles(s3_url, patience=1.0)
    files.put("a", b"1")
    upload = files.create("b")
    upload.write(b"2")
    s3.kill()
    for act in (lambda: files.get("a"), upload.finish, lambda: files.names("")):
        told = refusal(act)
        assert f"{s3_url}" in told and "Connection refused" in told and "is it up" in told
    s3.start()
    upload.finish()
    assert files.names("") == ["a", "b"]


def test_the_wrong_credentials_are_named_and_not_shown(
    s3: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "wrong-secret-that-nobody-may-see"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    files = ObjectFiles(s3_url)
    for act in (
        lambda: files.get("a"),
        lambda: files.size("a"),
        lambda: files.put("a", b"1"),
        lambda: files.names("a"),
        lambda: files.delete("a"),
        lambda: files.map("a", 0, 1),
        lambda: files.log("a"),
    ):
        told = refusal(act)
        assert s3_url in told and "403" in told and "AWS_SECRET_ACCESS_KEY" in told
        assert wrong not in told and KEY not in told and SECRET not in told
    assert wrong not in repr(files) + repr(vars(files))


def test_a_missing_bucket_is_no_missing_file(s3: S3Server) -> None:
    files = ObjectFiles(f"s3://no-such-{uuid.uuid4().hex}/x")
    for act in (
        lambda: files.get("a"),
        lambda: files.size("a"),
        lambda: files.put("a", b"1"),
        lambda: files.names("a"),
        lambda: files.map("a", 0, 1),
    ):
        assert "there is no such bucket" in refusal(act)


def test_no_credentials_at_all(s3: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreError, match="Missing AccessKeyId") as caught:
        ObjectFiles(s3_url)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value) and SECRET not in str(caught.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")  # as on no cloud
    assert "holds no credentials" in refusal(lambda: ObjectFiles(s3_url).get("a"))


@pytest.mark.parametrize(
    "url",
    ["ftp://b/x", "s3://", "s3:///x", "s3://key:hidden@b/x", "s3:/b", "https://b/x", "s3://b:1"],
)
def test_only_buckets_are_taken_for_buckets(url: str) -> None:
    with pytest.raises(StoreError, match="must be s3://BUCKET/PREFIX") as caught:
        ObjectFiles(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_ALLOW_HTTP", "", "plain http"),
        ("AWS_ENDPOINT_URL", "localhost:9000", "must begin with https://"),
        ("SAECTL_PATIENCE", "soon", "must be a number of seconds"),
    ],
)
def test_a_wrong_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=told):
        ObjectFiles(f"s3://{BUCKET}/x")


_SAID = "Error performing GET https://a/b?sig=hidden in 1s - Server returned non-2xx status code: "
_LOST = "Error performing GET https://a/b?sig=hidden in 1s - HTTP error: https://a/b?sig=hidden\n\n"


@pytest.mark.parametrize(
    ("text", "passes", "words"),
    [
        (_SAID + "503 Service Unavailable: <Code>SlowDown</Code>", True, "503 SlowDown"),
        (_SAID + "500 Internal Server Error: ", True, "500 Internal Server Error"),
        (_SAID + "429 Too Many Requests: ", True, "429 Too Many Requests"),
        (_SAID + "501 Not Implemented: ", False, "501 Not Implemented"),
        (_SAID + "301 Moved: <Code>PermanentRedirect</Code>", False, "301 PermanentRedirect"),
        (_LOST + "HttpError { kind: Timeout", True, "no answer"),
        (
            _LOST + "HttpError { source: hyper::Error(IncompleteMessage)",
            True,
            "the connection broke",
        ),
        ("Generic: bad https://a/b?sig=hidden here", False, "Generic: bad the endpoint here"),
    ],
)
def test_answers_are_told_apart(text: str, passes: bool, words: str) -> None:
    assert may_pass(text) is passes and reason(text) == words
    assert "hidden" not in str(explained("read", "s3://b/x", "s3", text, 1.0))


def test_a_forked_process_is_refused_instead_of_hanging(s3_url: str) -> None:
    program = (
        "import os, sys\n"
        "from sae_cli.errors import StoreError\n"
        "from sae_cli.store.objects import ObjectFiles\n"
        "files = ObjectFiles(sys.argv[1])\n"
        "files.put('a', b'1')\n"
        "if os.fork():\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "try:\n"
        "    ObjectFiles(sys.argv[1]).get('a')\n"
        "except StoreError as error:\n"
        "    os._exit(7 if 'forked' in str(error) else 8)\n"
    )
    command = [sys.executable, "-c", program, s3_url]
    assert subprocess.run(command, env=dict(os.environ), timeout=120).returncode == 7


def test_a_place_is_a_folder_or_a_bucket(s3_url: str, tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        assert files_at(place).where("x") == str(tmp_path / "x")
    assert isinstance(files_at(s3_url), ObjectFiles)
