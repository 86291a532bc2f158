"""What went wrong when an object store was asked, read from what `obstore` reports.

Its exceptions hold the whole answer, the request and the client's inner state as one text, and
one class stands for an outage and for a wrong password alike. So the text is read here, and only
the status, the store's code for it and the system's word are passed on: nothing that could hold
a secret.
"""

from __future__ import annotations

import re

from sae_cli.errors import StoreError

LOGIN = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_REGION, AWS_ENDPOINT_URL)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""The variables of the environment that each scheme needs."""
_STATUS = re.compile(r"status code: (\d{3}) ?([A-Za-z -]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_SYSTEM = re.compile(r'(?:message|error): "([^"]*)"')
_NO_LOGIN = re.compile(
    r"https?://[^/]+/(latest/(api|meta-data)|computeMetadata|metadata/identity)/|source: Missing\w+"
)
_SETTLING = {408, 409, 412, 429}  # 409, 412: a conditional PUT whose fate is not known yet


def status_of(text: str) -> int | None:
    """The HTTP status that the store answered with, or None where it did not."""
    found = _STATUS.search(text)
    return None if found is None else int(found[1])


def no_bucket(text: str) -> bool:
    """Whether it is the bucket that is missing, not the object."""
    return _code(text) in ("NoSuchBucket", "ContainerNotFound")


def may_pass(text: str) -> bool:
    """Whether the same request may be answered later: an outage, a dropped line, throttling."""
    status = status_of(text)
    if status is not None:
        return status in _SETTLING or (status >= 500 and status != 501)
    return not _NO_LOGIN.search(text) and ("HttpError" in text or "reqwest" in text)


def reason(text: str) -> str:
    """What went wrong, in a few words."""
    status = _STATUS.search(text)
    if status is not None:
        return " ".join(part for part in (status[1], _code(text) or status[2].strip()) if part)
    if "kind: Timeout" in text:
        return "no answer"
    system = _SYSTEM.search(text)
    if system is None and may_pass(text):
        return "the connection broke"
    words = text.partition("\n")[0].rpartition(" - ")[2] if system is None else system[1]
    return re.sub(r"https?://\S+", "the endpoint", words)[:200]


def explained(doing: str, where: str, scheme: str, text: str, waited: float) -> StoreError:
    """The error for a person: what could not be done (for `waited` seconds), and what to do."""
    what = f"can't {doing} {where}: "
    if no_bucket(text):
        return StoreError(what + "there is no such bucket", hint="create it, or name another")
    if _NO_LOGIN.search(text):
        return StoreError(
            what + "the environment holds no credentials for it", hint=f"set {LOGIN[scheme]}"
        )
    if status_of(text) in (401, 403):
        return StoreError(
            what + reason(text),
            hint=f"look at {LOGIN[scheme]}: they must allow to read, write, list and delete",
        )
    if may_pass(text):
        return StoreError(
            f"{what}{reason(text)}, for {waited:.0f} s",
            hint="is it up, and the endpoint right? Then run the same command again: it goes on "
            "where it stopped",
        )
    return StoreError(what + reason(text))


def _code(text: str) -> str | None:
    found = _CODE.search(text)
    return None if found is None else found[1]
