"""What a person is told when a bucket refuses: what is wrong, what to set, and no secret."""

from __future__ import annotations

import uuid

import pytest
from buckets import refusal
from s3server import BUCKET, KEY, SECRET, S3Server

from sae_cli.errors import StoreError
from sae_cli.store.buckets.answers import explained, may_pass, reason
from sae_cli.store.buckets.files import ObjectFiles


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
