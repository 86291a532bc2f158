"""The server of a site answers its own pages, and nobody else."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_cli.errors import DataError, UsageError
from sae_cli.run.serving import MOST_BYTES, SiteServer


def answered(what: str, asked: Any) -> dict[str, Any]:
    if asked.get("text") == "wrong":
        raise DataError("the text is wrong", hint="another one")
    return {"what": what, "asked": asked}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SiteServer]:
    (tmp_path / "secret.js").write_text("outside")
    site = tmp_path / "site"
    (site / "sae+1").mkdir(parents=True)
    (site / "index.html").write_text('<!doctype html>\n<html lang="en">')
    (site / "sae+1" / "index.bin.js").write_text("saectl()")
    (site / "notes.txt").write_text("no page")
    with SiteServer(site, 0, ("read",), answered) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: SiteServer, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, data, named)
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


JSON = {"Content_Type": "application/json"}


def test_it_listens_on_this_machine_alone(server: SiteServer) -> None:
    assert server.server_address[0] == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")


def test_it_gives_out_the_site_and_marks_the_page_as_live(server: SiteServer) -> None:
    status, body, headers = ask(server, "GET", "/?x#y")
    assert (status, body) == (200, b'<!doctype html>\n<html lang="en" data-live>')
    assert not any(name.lower().startswith("access-control") for name in headers)
    assert ask(server, "GET", "/sae%2B1/index.bin.js")[:2] == (200, b"saectl()")
    assert ask(server, "HEAD", "/index.html")[:2] == (200, b"")


@pytest.mark.parametrize("path", [
    "/../secret.js", "/%2e%2e/secret.js", "//secret.js", "/sae%2B1/../../secret.js", "/notes.txt",
    "/sae%2B1", "/etc/passwd", "/api/read",
])  # fmt: skip
def test_it_gives_out_nothing_else(server: SiteServer, path: str) -> None:
    assert ask(server, "GET", path)[0] == 404


def test_it_answers_a_question(server: SiteServer) -> None:
    status, body, _ = ask(server, "POST", "/api/read", {"text": "ü"}, **JSON)
    assert status == 200 and json.loads(body) == {"what": "read", "asked": {"text": "ü"}}
    own = server.url.rstrip("/")
    assert ask(server, "POST", "/api/read", {}, Origin=own, **JSON)[0] == 200


def test_what_can_t_be_answered_is_said_and_the_server_goes_on(server: SiteServer) -> None:
    status, body, _ = ask(server, "POST", "/api/read", {"text": "wrong"}, **JSON)
    assert status == 400 and json.loads(body) == {"error": "the text is wrong"}
    for bad in (b"{", b"[]", b"\xff"):
        assert ask(server, "POST", "/api/read", bad, **JSON)[0] == 400
    assert ask(server, "POST", "/api/read", {}, **JSON)[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", "[::1]:{port}"]
)
def test_a_request_that_names_another_host_is_refused(
    server: SiteServer, method: str, host: str
) -> None:
    named = host.format(port=server.server_address[1])
    status, body, _ = ask(server, method, "/api/read", {} if method == "POST" else None,
                          Host=named, **JSON)  # fmt: skip
    assert status == 421 and b"not called so" in body


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_is_refused(server: SiteServer, origin: str) -> None:
    assert ask(server, "POST", "/api/read", {}, Origin=origin, **JSON)[0] == 403


def test_questions_that_a_page_of_another_origin_could_send_unasked_are_refused(
    server: SiteServer,
) -> None:
    """A form can only send these types; JSON makes a browser ask first, and nobody says yes."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask(server, "POST", "/api/read", b"{}", Content_Type=kind)[0] == 415
    assert ask(server, "OPTIONS", "/api/read", Origin="http://evil.example")[0] == 501


def test_long_and_unknown_questions_are_refused(server: SiteServer) -> None:
    assert ask(server, "POST", "/api/write", {}, **JSON)[0] == 404
    long = {"Content_Length": str(MOST_BYTES + 1)}
    assert ask(server, "POST", "/api/read", b"{}", **JSON, **long)[0] == 413


def test_a_port_that_is_taken_is_told(server: SiteServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't listen"):
        SiteServer(tmp_path, server.server_address[1], (), answered)
