"""Questions asked side by side, each once more where its answer can't be read, within a budget.

Room is made for questions in their order, before any of them is sent, and what they cost is counted
when all are answered: where the budget ends does not depend on which answer came first.

A question that the endpoint leaves unanswered is the endpoint's trouble, which passes: the others
are asked, and then it is an error, so that no outage is ever taken for a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from sae_cli.errors import JudgeError
from sae_cli.spec.studies import JudgeSpec
from sae_cli.studies.explain.judge.endpoint import AGAIN, Endpoint
from sae_cli.studies.explain.judge.kept import Kept
from sae_cli.studies.explain.judge.meter import Meter
from sae_cli.studies.explain.judge.question import Answer, Question, Unanswered
from sae_cli.studies.explain.judge.replies import Unread

T = TypeVar("T")
SILENT = 8
"""Questions in a row without an answer, after which the endpoint counts as down."""
LOOK = 0.5
"""Seconds between looks at whether a stop was asked for."""


class BudgetSpent(Exception):
    """There is no room for the next question."""


@dataclass(frozen=True)
class Read(Generic[T]):
    """A question and how to read its answer."""

    question: Question
    read: Callable[[str], T]
    """Raises Unread."""


@dataclass(frozen=True)
class Failed:
    """No answer that can be read, and why."""

    reason: str


class Interview:
    """With one endpoint; `kept` and the counts are of all SAEs."""

    def __init__(
        self, spec: JudgeSpec, endpoint: Endpoint, kept: Kept, leave: Callable[[str], None]
    ) -> None:
        self._endpoint, self._kept, self._leave = endpoint, kept, leave
        self._where = spec.base_url
        self._pool = ThreadPoolExecutor(spec.concurrency, "judge")
        self._silent = 0
        self.sent, self.known = 0, 0
        """Questions that were sent, and those whose answers were kept from before."""
        self._unanswered: list[str] = []
        """Why, of each question that the endpoint left without an answer."""

    def ask(self, asked: Sequence[Read[T]], meter: Meter) -> list[T | Failed]:
        """What each says, in order. Raises BudgetSpent as soon as there is no room for one of them;
        those before it have been asked, and their answers are kept."""
        first = self._round([each.question for each in asked], meter)
        out: list[T | Failed] = []
        again: list[tuple[int, Question]] = []
        for i, (each, found) in enumerate(zip(asked, first, strict=True)):
            said = _read(each, found)
            out.append(said)
            if isinstance(said, Failed) and isinstance(found, Answer):
                again.append((i, each.question.again(found.text, said.reason)))
        second = self._round([question for _, question in again], meter)
        for (i, _), found in zip(again, second, strict=True):
            out[i] = _read(asked[i], found)
        return out

    def complete(self) -> None:
        """Raises JudgeError where the endpoint left a question without an answer."""
        if self._unanswered:
            why, count = self._unanswered[-1], len(self._unanswered)
            raise JudgeError(
                f"{self._where} left {count} of {self.sent + self.known} questions without an "
                f"answer; the last: {why}",
                hint=AGAIN,
            )

    def _round(self, questions: Sequence[Question], meter: Meter) -> list[Answer | Unanswered]:
        asides = []
        for question in questions:
            aside = meter.set_aside(question)
            if aside is None:
                break
            asides.append(aside)
        there = list(zip(questions, asides, strict=False))
        found = [self._kept.get(question) for question, _ in there]
        jobs: dict[int, Future[Answer | Unanswered]] = {
            i: self._pool.submit(self._send, question, lambda a=aside: meter.lose(a))  # type: ignore[misc]
            for i, (question, aside) in enumerate(there)
            if found[i] is None
        }
        self._await(list(jobs.values()))
        out: list[Answer | Unanswered] = []
        for i, (question, aside) in enumerate(there):
            known = found[i]
            answer = jobs[i].result() if known is None else known
            meter.settle(aside, question, answer)
            out.append(answer)
            if isinstance(answer, Unanswered) and not (answer.spent or answer.lasting):
                self._unanswered.append(answer.reason)
            self._silent = self._silent + 1 if isinstance(answer, Unanswered) else 0
            if self._silent >= SILENT:
                assert isinstance(answer, Unanswered)
                raise JudgeError(
                    f"{SILENT} questions in a row have no answer; the last: {answer.reason}",
                    hint=AGAIN,
                )
        self.sent, self.known = self.sent + len(jobs), self.known + len(there) - len(jobs)
        if len(there) < len(questions):
            raise BudgetSpent
        return out

    def _send(self, question: Question, room: Callable[[], bool]) -> Answer | Unanswered:
        answer = self._endpoint.ask(question, room)
        if isinstance(answer, Answer):
            self._kept.put(question, answer)
        return answer

    def _await(self, jobs: Sequence[Future[Answer | Unanswered]]) -> None:
        left = set(jobs)
        try:
            while left:
                self._leave("asking the judge")
                ended, left = wait(left, LOOK, FIRST_EXCEPTION)
                for job in ended:
                    job.result()
        except BaseException:
            self._endpoint.stop()
            for job in left:
                job.cancel()
            raise

    def __enter__(self) -> Interview:
        return self

    def __exit__(self, *_: object) -> None:
        self._endpoint.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _read(each: Read[T], found: Answer | Unanswered) -> T | Failed:
    if isinstance(found, Unanswered):
        return Failed(found.reason)
    try:
        return each.read(found.text)
    except Unread as error:
        cut = "; it was cut at answer_tokens" if found.cut else ""
        return Failed(f"the answer can't be read: {error}{cut}")
