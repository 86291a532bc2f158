"""A site on this machine's own address, and the questions that its pages may ask.

It listens on 127.0.0.1 and answers only requests that name it so: a page of another site that was
made to point here (DNS rebinding) names itself, and is refused. Questions are JSON by POST from its
own pages; no other origin is let in, and nothing is written. Only files of the site as it was found
at the start are given out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sae_cli.errors import SaectlError, UsageError

HOST = "127.0.0.1"
MOST_BYTES = 2**18
"""Of a question."""
Answer = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class SiteServer(ThreadingHTTPServer):
    """Serves `folder`; `answer(what, asked)` answers `POST /api/<what>`."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int, questions: tuple[str, ...], answer: Answer) -> None:
        """Raises UsageError when the port is taken."""
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"can't listen on {HOST}:{port}: {error.strerror}", hint="say another --port"
            ) from error
        self.files = {
            f"/{path.relative_to(folder).as_posix()}": path
            for path in folder.rglob("*")
            if path.is_file() and path.suffix in TYPES
        }
        self.files["/"] = folder / "index.html"
        self.questions, self.answer = questions, answer
        own = self.server_address[1]
        self.hosts = {f"{HOST}:{own}", f"localhost:{own}"}

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: SiteServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "saectl", ""
    timeout = 60

    def do_GET(self) -> None:
        """A file of the site."""
        if self._refused():
            return
        path = self.server.files.get(unquote(urlsplit(self.path).path))
        if path is None:
            self._json(404, {"error": "no such file"})
            return
        try:
            data = path.read_bytes()
        except OSError:
            self._json(404, {"error": "the site was written anew: start it again"})
            return
        if path.suffix == ".html":
            data = data.replace(b'<html lang="en">', b'<html lang="en" data-live>', 1)
        self._send(200, TYPES[path.suffix], data)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """A question."""
        if self._refused():
            self.close_connection = True
            return
        what = urlsplit(self.path).path.removeprefix("/api/")
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").split(";")[0].strip().lower()
        wrong = (
            (404, "no such question") if what not in self.server.questions
            else (415, "questions are application/json") if kind != "application/json"
            else (411, "say a Content-Length") if not length.isdigit()
            else (413, "the question is too long") if int(length) > MOST_BYTES
            else None
        )  # fmt: skip
        if wrong is not None:
            self.close_connection = True
            self._json(wrong[0], {"error": wrong[1]})
            return
        try:
            asked = json.loads(self.rfile.read(int(length)))
            if not isinstance(asked, dict):
                raise ValueError("the question is no JSON object")
            self._json(200, self.server.answer(what, asked))
        except (ValueError, SaectlError) as error:
            self._json(400, {"error": str(error).splitlines()[0]})

    def _refused(self) -> bool:
        """Whether the request is none of this address's own pages; then it is answered."""
        origin = self.headers.get("Origin")
        if self.headers.get("Host", "") not in self.server.hosts:
            self._json(421, {"error": "this server is not called so"})
        elif origin is not None and urlsplit(origin).netloc not in self.server.hosts:
            self._json(403, {"error": "questions come from this site's own pages"})
        else:
            return False
        return True

    def _json(self, status: int, value: Mapping[str, Any]) -> None:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        self._send(status, "application/json", data)

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a terminal is for what went wrong."""
