"""One question over HTTP to an OpenAI-compatible server, asked until it is answered or given up.

After 429, 5xx and silence it is asked again, later each time, and not before the server says
(Retry-After). A server that refuses the form of the answer is asked without. A refused key or an
unknown model is an error at once. The key goes into one header and nowhere else: what a server
says is shown and kept without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from sae_cli.errors import JudgeError
from sae_cli.spec.studies import JudgeSpec
from sae_cli.studies.explain.judge.question import Answer, Question, Unanswered

FIRST_WAIT, LONGEST_WAIT = 0.5, 120.0
"""Seconds."""
SHOWN = 200
"""Characters of a server's own words that an error shows."""
REFUSED, UNKNOWN, FORM = (401, 403), (404, 405), (400, 422)
UNFIT = (400, 413, 422)
"""What a server says of one question that it will never take: too long, or against its rules."""
AGAIN = "answers that were paid for are kept: mend it and run the same command again"


def key_of(spec: JudgeSpec) -> str | None:
    """The key, from its variable. Raises JudgeError where that is not set."""
    if spec.api_key_env is None:
        return None
    key = os.environ.get(spec.api_key_env, "").strip()
    if not key:
        raise JudgeError(
            f"the judge's key is to be in the environment variable {spec.api_key_env}, which is "
            "not set",
            hint=f"export {spec.api_key_env}=..., or leave out api_key_env where none is needed",
        )
    return key


class Endpoint:
    """A server, for questions from several threads. A context manager."""

    def __init__(self, spec: JudgeSpec) -> None:
        """Raises JudgeError without the key that the spec names."""
        self._spec, self._key = spec, key_of(spec)
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        self._client = httpx.Client(headers=headers, timeout=spec.timeout)
        self._url = spec.base_url.rstrip("/") + "/chat/completions"
        self._stop = threading.Event()
        self._takes_form, self._length = True, "max_tokens"

    def ask(self, question: Question, room: Callable[[], bool]) -> Answer | Unanswered:
        """The answer, or why there is none. After an attempt that may be billed without an answer,
        `room()` says whether there may be another. Raises JudgeError when none can be asked."""
        body = question.body(self._spec)
        for attempt in range(self._spec.retries + 1):
            wait = FIRST_WAIT * 2**attempt
            try:
                response = self._post(body)
            except httpx.TimeoutException:
                failed = Unanswered(f"no answer in {self._spec.timeout:g} s", billed=True)
            except httpx.ConnectError:
                if attempt == self._spec.retries:
                    raise JudgeError(f"no judge answers at {self._url}", hint=AGAIN) from None
                failed = Unanswered("no connection")
            except httpx.TransportError as error:
                failed = Unanswered(f"the connection broke ({type(error).__name__})", billed=True)
            else:
                found = self._read(response)
                if isinstance(found, Answer) or not _passes(response.status_code):
                    return found
                failed = found
                wait = max(wait, _asked_to_wait(response.headers.get("Retry-After")))
            if attempt == self._spec.retries or self._stop.wait(min(wait, LONGEST_WAIT)):
                break
            if failed.billed and not room():
                why = f"{failed.reason}, and the budget has no room to ask again"
                return Unanswered(why, spent=True)
        return failed

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        """One attempt, in a form that the server takes."""
        response = self._client.post(self._url, json=self._formed(body, self._takes_form))
        if response.status_code in FORM and "max_completion_tokens" in response.text:
            self._length = "max_completion_tokens"
            response = self._client.post(self._url, json=self._formed(body, self._takes_form))
        if response.status_code in FORM and self._takes_form:
            plain = self._client.post(self._url, json=self._formed(body, False))
            if plain.is_success:
                self._takes_form = False
            return plain
        return response

    def _formed(self, body: dict[str, Any], form: bool) -> dict[str, Any]:
        left_out = {"max_tokens"} | (set() if form else {"response_format"})
        kept = {name: value for name, value in body.items() if name not in left_out}
        return kept | {self._length: body["max_tokens"]}

    def _read(self, response: httpx.Response) -> Answer | Unanswered:
        """What a response says."""
        status = response.status_code
        if status in REFUSED:
            raise JudgeError(f"{self._url} refuses the key ({status})", hint=AGAIN)
        if status in UNKNOWN:
            raise JudgeError(
                f"{self._url} has no model {self._spec.model!r}, or is no chat endpoint ({status}: "
                f"{self._safe(response.text)})",
                hint=AGAIN,
            )
        if not response.is_success:
            why = f"the server said {status}: {self._safe(response.text)}"
            return Unanswered(why, lasting=status in UNFIT)
        try:
            whole = response.json()
            choice, usage = whole["choices"][0], whole.get("usage") or {}
            text = choice["message"].get("content") or ""
            return Answer(
                self._without_key(str(text)),
                _number(usage.get("prompt_tokens")),
                _number(usage.get("completion_tokens")),
                choice.get("finish_reason") == "length",
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            return Unanswered("the server's response is no chat completion", billed=True)

    def _safe(self, text: str) -> str:
        return self._without_key(" ".join(text.split()))[:SHOWN]

    def _without_key(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "[key]")

    def stop(self) -> None:
        """Ask nothing again: who waits gives up."""
        self._stop.set()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()


def _passes(status: int) -> bool:
    """Whether it may be better later."""
    return status in (200, 408, 409, 425, 429) or status >= 500


def _asked_to_wait(header: str | None) -> float:
    """Seconds, of a Retry-After that gives these or a date."""
    if header is None:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
