"""As much of the Hugging Face hub as a push needs: a process on the loopback that tests may kill.

It speaks the hub's own protocol (repositories, preupload, LFS batches and uploads, commits, trees,
files) and keeps everything in a folder, so that a server which is started again on the same folder
and port holds what it held. `python hubserver.py PORT FOLDER [FUSE]` is that process: with a fuse
of N it dies (no answer, nothing flushed) when the N+1st large file arrives and the N before it were
answered. Every request is a line of `requests.jsonl`: method, path, status.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

WRITER, READER = "hf_writerWRITERwriterWRITER", "hf_readerREADERreaderREADER"
LARGE = (".safetensors",)


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class State:
    """What the server keeps."""

    def __init__(self, folder: Path, fuse: int | None) -> None:
        self.folder, self.fuse, self.lock = folder, fuse, threading.Lock()
        self.answered, self.under_way = threading.Condition(self.lock), 0
        (folder / "data").mkdir(parents=True, exist_ok=True)

    def repo(self, name: str) -> dict[str, Any] | None:
        path = self.folder / f"{name.replace('/', '+')}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def keep(self, name: str, repo: dict[str, Any]) -> None:
        path = self.folder / f"{name.replace('/', '+')}.json"
        path.with_suffix(".new").write_text(json.dumps(repo))
        path.with_suffix(".new").replace(path)

    def commit(self, name: str, files: dict[str, Any], private: bool) -> str:
        past = (self.repo(name) or {}).get("commits", [])
        oid = hashlib.sha1(json.dumps([len(past), files], sort_keys=True).encode()).hexdigest()
        self.keep(name, {"private": private, "commits": [*past, {"oid": oid, "files": files}]})
        return oid

    def put(self, oid: str, data: bytes) -> None:
        temp = self.folder / "data" / f"{oid}.{threading.get_ident()}"
        temp.write_bytes(data)
        temp.replace(self.folder / "data" / oid)

    def note(self, *said: Any) -> None:
        with self.lock, (self.folder / "requests.jsonl").open("a") as log:
            log.write(json.dumps(said) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: Any) -> None:
        return

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.state.note(self.command, self.path, status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def may_read(self) -> bool:
        return self.headers.get("Authorization") in (f"Bearer {WRITER}", f"Bearer {READER}")

    @property
    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {WRITER}"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self.answer(200, {})
        elif not self.may_read:
            bad = {"X_Error_Message": "Invalid credentials in Authorization header"}
            self.answer(401, {"error": "who?"}, **bad)
        elif path.startswith("/api/models/"):
            name, _, rest = self._named(path.removeprefix("/api/models/"))
            self._info(name, rest)
        else:
            name, _, rest = self._named(path.removeprefix("/"))
            self._file(name, rest.removeprefix("resolve/"))

    def _named(self, path: str) -> tuple[str, str, str]:
        parts = path.split("/")
        return "/".join(parts[:2]), "/", "/".join(parts[2:])

    def _at(self, name: str, revision: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        repo = self.state.repo(name)
        if repo is None:
            self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
            return None
        commits = {c["oid"]: c for c in repo["commits"]}
        return repo, commits.get(revision, repo["commits"][-1])

    def _info(self, name: str, rest: str) -> None:
        what, _, revision = rest.partition("/")
        found = self._at(name, revision)
        if found is None:
            return
        repo, commit = found
        if what == "tree":
            folders = {str(p) for f in commit["files"] for p in Path(f).parents} - {"."}
            tree = [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders]
            self.answer(200, tree + [{"type": "file", **f} for f in commit["files"].values()])
        else:
            said = {"id": name, "private": repo["private"], "sha": commit["oid"], "siblings": []}
            self.answer(200, said)

    def _file(self, name: str, rest: str) -> None:
        revision, _, path = rest.partition("/")
        found = self._at(name, revision)
        if found is None:
            return
        entry = found[1]["files"].get(path)
        if entry is None:
            self.answer(404, {}, X_Error_Code="EntryNotFound")
            return
        oid = entry.get("lfs", entry)["oid"]
        data = (self.state.folder / "data" / oid).read_bytes()
        self.answer(200, data, ETag=f'"{oid}"', X_Repo_Commit=found[1]["oid"])

    def do_PUT(self) -> None:
        data, oid = self.body(), self.path.rpartition("/")[2]
        with self.state.lock:
            if self.state.fuse == 0:
                self.state.answered.wait_for(lambda: self.state.under_way == 0)
                os._exit(9)
            if self.state.fuse is not None:
                self.state.fuse -= 1
            self.state.under_way += 1
        if hashlib.sha256(data).hexdigest() == oid:
            self.state.put(oid, data)
            self.answer(200, {})
        else:
            self.answer(400, {})
        with self.state.lock:
            self.state.under_way -= 1
            self.state.answered.notify_all()

    def do_POST(self) -> None:
        data, path = self.body(), self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            fine = b"license: nonsense" not in data
            self.answer(200 if fine else 400, {"errors": [{"message": "license"}], "warnings": []})
        elif not self.may_write:
            self.answer(403, {"error": f"no rights for {self.headers.get('Authorization')}"})
        elif path == "/api/repos/create":
            self._create(json.loads(data))
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(data))
        else:
            name, _, rest = self._named(path.removeprefix("/api/models/"))
            if rest.startswith("preupload/"):
                files = json.loads(data)["files"]
                mode = {True: "lfs", False: "regular"}
                self.answer(200, {"files": [
                    {
                        "path": f["path"],
                        "uploadMode": mode[f["path"].endswith(LARGE)],
                        "shouldIgnore": False,
                    }
                    for f in files
                ]})  # fmt: skip
            else:
                self._commit(name, [json.loads(line) for line in data.splitlines()])

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if self.state.repo(name) is not None:
            self.answer(409, {"url": f"http://{self.headers['Host']}/{name}"})
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        data = b"*.safetensors filter=lfs\n"
        self.state.put(blob(data), data)
        first = {"path": ".gitattributes", "oid": blob(data), "size": len(data)}
        self.state.commit(name, {".gitattributes": first}, private)
        self.answer(200, {"url": f"http://{self.headers['Host']}/{name}"})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            there = (self.state.folder / "data" / one["oid"]).is_file()
            href = f"http://{self.headers['Host']}/upload/{one['oid']}"
            objects.append(one if there else {**one, "actions": {"upload": {"href": href}}})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        with self.state.lock:
            repo = self.state.repo(name)
            assert repo is not None
            parent = lines[0]["value"].get("parentCommit")
            moved = parent not in (None, repo["commits"][-1]["oid"])
            files = dict(repo["commits"][-1]["files"])
            for line in [] if moved else lines[1:]:
                value = line["value"]
                where = value["path"]
                if line["key"] == "deletedFile":
                    del files[where]
                elif line["key"] == "file":
                    data = base64.b64decode(value["content"])
                    self.state.put(blob(data), data)
                    files[where] = {"path": where, "oid": blob(data), "size": len(data)}
                else:
                    assert (self.state.folder / "data" / value["oid"]).is_file()
                    lfs = {"oid": value["oid"], "size": value["size"], "pointerSize": 130}
                    files[where] = {
                        "path": where, "oid": "1" * 40, "size": value["size"], "lfs": lfs,
                    }  # fmt: skip
            oid = None if moved else self.state.commit(name, files, repo["private"])
        if oid is None:
            self.answer(412, {"error": "moved on"})
        else:
            url = f"http://{self.headers['Host']}/{name}/commit/{oid}"
            self.answer(200, {"commitUrl": url, "commitOid": oid})


class Hub:
    """One server. Its address stays the same when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self, token: str | None = WRITER) -> dict[str, str]:
        """What a client needs: address, token, and the protocol that this server speaks."""
        said = {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        return said if token is None else said | {"HF_TOKEN": token}

    def start(self, fuse: int | None = None) -> None:
        """Start it and wait until it answers."""
        words = [sys.executable, __file__, str(self._port), str(self.folder)]
        self._process = subprocess.Popen([*words, *([] if fuse is None else [str(fuse)])])
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.endpoint, timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < end
                time.sleep(0.02)

    def wait(self) -> None:
        """Until its fuse has burnt."""
        assert self._process is not None
        assert self._process.wait(timeout=300) == 9

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def requests(self, *methods: str) -> list[tuple[str, str, int]]:
        """Those that were answered so far: method, path, status."""
        log = self.folder / "requests.jsonl"
        lines = log.read_text().splitlines() if log.is_file() else []
        found = [tuple(json.loads(line)) for line in lines]
        return [r for r in found if r[1] != "/" and (not methods or r[0] in methods)]

    def repo(self, name: str) -> dict[str, Any] | None:
        return State(self.folder, None).repo(name)

    def files(self, name: str) -> dict[str, bytes]:
        """What the repository holds now."""
        repo = self.repo(name)
        assert repo is not None
        entries = repo["commits"][-1]["files"]
        data = self.folder / "data"
        return {n: (data / e.get("lfs", e)["oid"]).read_bytes() for n, e in entries.items()}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A server with no repository, up."""
    server = Hub(tmp_path / "hub")
    server.start()
    yield server
    server.kill()


if __name__ == "__main__":
    port, place, *fuse = sys.argv[1:]
    Handler.state = State(Path(place), int(fuse[0]) if fuse else None)
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
