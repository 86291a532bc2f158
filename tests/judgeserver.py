"""An OpenAI-compatible endpoint on the loopback that knows one latent, and fails when told to.

Its latent fires on one word: it says so when asked to explain, and judges windows by what it
reads in them, so a study that asks well is answered in full. `faults` are played one a request,
in order, before it begins to answer.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-a-secret-of-the-tests"
Fault = tuple[int, dict[str, str], str]
"""Status, headers, body."""
HANG = "hang"


class JudgeServer:
    """What was asked, and how to answer."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.faults: list[Fault | str | None] = []
        """Each is a response, or a text of a completion, or HANG, or None for a good answer."""
        self.refuses_form = False
        self.usage: tuple[int, int] | None = (100, 10)
        self.asked: list[dict[str, Any]] = []
        """Bodies that were answered with a completion."""
        self.times: list[float] = []
        """When each request came."""
        self.keys: set[str | None] = set()
        self.on_request: Callable[[int], None] = lambda count: None
        """Called with the number of requests so far, before each is answered."""
        self.let_go = threading.Event()
        """Ends what hangs."""
        self._lock = threading.Lock()

    def reply(self, body: dict[str, Any]) -> str:
        """What a good judge says."""
        system, said = (message["content"] for message in body["messages"][:2])
        if '"explanation"' in system:
            return json.dumps({"explanation": f"the word {self.word}"})
        lines = re.findall(r"^\d+\. (.*)$", said, re.M)
        marks = "<<" in said
        word = rf"<<{self.word}>>|<<{self.word} |{self.word}>>" if marks else rf"\b{self.word}\b"
        return json.dumps({"answers": [int(bool(re.search(word, line))) for line in lines]})

    def answer(self, body: dict[str, Any], key: str | None) -> Fault | None:
        """The response to one request; None to break the connection."""
        with self._lock:
            self.times.append(time.monotonic())
            self.keys.add(key)
            self.on_request(len(self.times))
            fault = self.faults.pop(0) if self.faults else None
        if fault == HANG:
            self.let_go.wait(30)
            return None
        if isinstance(fault, tuple):
            return fault
        if self.refuses_form and "response_format" in body:
            return 400, {}, '{"error": {"message": "response_format is not supported"}}'
        text = self.reply(body) if fault is None else str(fault)
        with self._lock:
            self.asked.append(body)
        completion: dict[str, Any] = {
            "choices": [
                {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            ]
        }
        if self.usage is not None:
            sent, out = self.usage
            completion["usage"] = {"prompt_tokens": sent, "completion_tokens": out}
        return 200, {}, json.dumps(completion)


@contextmanager
def serving(server: JudgeServer) -> Iterator[str]:
    """The address of `server`, while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            found = server.answer(body, self.headers.get("Authorization"))
            if found is None:
                self.close_connection = True
                return
            status, headers, text = found
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that was killed has closed its end."""

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1"
    finally:
        server.let_go.set()
        http.shutdown()
        thread.join()
        http.server_close()
