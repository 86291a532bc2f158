"""Files in a folder and in a bucket, on a real S3 server: both keep the same promises."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from s3server import S3Server

from sae_cli.errors import StoreError
from sae_cli.store.buckets.files import ObjectFiles, files_at
from sae_cli.store.tables.files import Files


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """Both places keep the same promises."""
    if request.param == "folder":
        return files_at(tmp_path / "files")
    return files_at(request.getfixturevalue("s3_url"))


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


def test_a_forked_process_is_refused_instead_of_hanging(s3_url: str) -> None:
    program = (
        "import os, sys\n"
        "from sae_cli.errors import StoreError\n"
        "from sae_cli.store.buckets.files import ObjectFiles\n"
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
