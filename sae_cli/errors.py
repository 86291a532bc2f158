"""The errors a user may meet, and the exit code each of them ends the program with.

An expected error is a `SaectlError`: it says what is wrong, where, and what to type next, and it
is printed without a traceback. Anything else that escapes is a bug of ours and shows one.
"""

from __future__ import annotations

OK, FAILED, USAGE, WORK_FOUND, INTERRUPTED = 0, 1, 2, 3, 130


class SaectlError(Exception):
    """An expected failure: `what` went wrong, and `hint`, what to type next."""

    exit_code = FAILED

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return self.what if self.hint is None else f"{self.what}\n  {self.hint}"


class UsageError(SaectlError):
    """The command line or the workspace does not make sense (exit 2)."""

    exit_code = USAGE


class SpecError(SaectlError):
    """A spec is wrong (exit 2). `what` already carries file:line:col of every problem."""

    exit_code = USAGE


class ModelError(SaectlError):
    """A model can't be had, or has no such layer or site."""


class DataError(SaectlError):
    """A text source can't be read, or ran dry."""


class StoreError(SaectlError):
    """What is on disk contradicts the record: torn, damaged, or another spec's."""


class TrainingError(SaectlError):
    """Training met numbers it must not go on with (NaN, Inf)."""


class JudgeError(SaectlError):
    """The endpoint of a judge can't be asked: no key, no answer, no such model."""


class Blocked(SaectlError):
    """A stage can't start yet: a dependency is missing, failed, or claimed by another process."""


class Interrupted(SaectlError):
    """SIGINT or SIGTERM: the step was finished and checkpointed (exit 130)."""

    exit_code = INTERRUPTED
