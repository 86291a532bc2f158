"""A release to a repository of the Hugging Face hub: private unless asked, whole or not at all.

Large files are sent first, each by its sha256, and one commit at the end makes all of them visible
together: until then the repository is what it was. So a push that is cut off anywhere leaves no
half release, and the next one sends only what the hub does not hold yet. Nothing is sent of a
release whose files are not, to the byte, what its manifest lists; and what the hub then says it
holds is compared with the manifest too.

The token is the library's business (`HF_TOKEN`, `hf auth login`), the address too (`HF_ENDPOINT`).
No text of a server or of the library is ever shown: it may carry a token or a signed address.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_cli.errors import Interrupted, SaectlError, StoreError, UsageError
from sae_cli.store.atomic import explained
from sae_cli.store.layout import StageDir
from sae_cli.store.records.ledger import read_done
from sae_cli.store.records.space import told
from sae_cli.store.releases import MANIFEST, File, Manifest, differences, read_manifest

if TYPE_CHECKING:  # a dry run needs no client
    from huggingface_hub import HfApi

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
AGAIN = "the same command goes on: what the hub holds already is not sent again"
LOGIN = "`hf auth login`, or set HF_TOKEN to a token that may write"


WAITS = (1, 2, 4, 8, 16)
"""Seconds between tries, once the hub has answered."""


class _Away(SaectlError):
    """The hub can't be reached, or can't do it now."""


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    repo: str
    url: str
    commit: str
    """Of the repository, which now holds the release."""
    sent: tuple[str, ...]
    """Files that were added or changed."""
    kept: int
    """Files that were there already, with the same content."""
    removed: tuple[str, ...]
    """Files of an earlier release that this one does not have."""


def check_name(repo: str) -> None:
    """Raises UsageError unless `repo` is ORG/NAME, as the hub takes it."""
    if not _REPO.fullmatch(repo) or len(repo) > 96 or "--" in repo or ".." in repo:
        raise UsageError(
            f"--push {repo}: a repository of the hub is ORG/NAME, in letters, digits, '.', '_', '-'"
        )


def sound(place: StageDir, name: str) -> tuple[Path, Manifest, list[File]]:
    """The folder of a finished release, its manifest, and all its files, hashed just now.

    The stage says done only after what it wrote was read back. Raises StoreError when it is not
    done, or any file differs from what was recorded.
    """
    folder, done = place.path / name, read_done(place)
    if done is None:
        raise StoreError(f"{place} is not done: there is nothing to push")
    manifest = read_manifest(folder)
    with explained(folder / MANIFEST, "read"):
        data = (folder / MANIFEST).read_bytes()
    listed = File(MANIFEST, hashlib.sha256(data).hexdigest(), len(data))
    recorded = done.outputs.get(f"{name}/{MANIFEST}", {})
    wrong = [f"{d.file} is {d.what}" for d in differences(folder, manifest)]
    if recorded.get("sha256") != listed.sha256:
        wrong.insert(0, f"{MANIFEST} is not what {place.done} lists")
    if wrong:
        more = f"; {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise StoreError(
            f"{folder} is not the release that was made, so nothing was pushed: "
            + "; ".join(wrong[:3]) + more,
            hint="make it again: saectl release SPEC --only release --force",
        )  # fmt: skip
    return folder, manifest, [listed, *manifest.files]


def push(
    folder: Path,
    manifest: Manifest,
    files: Sequence[File],
    repo: str,
    *,
    public: bool,
    say: Callable[[str], None],
    bars: bool,
) -> Pushed:
    """Make `repo` hold these files. A hub that answered once and then does not is asked again for
    a while: every part of a push may be done twice. Raises SaectlError, Interrupted when stopped by
    Ctrl-C."""
    api = _client(bars)
    with _understood(repo, api.endpoint):
        _repository(api, repo, public=public, say=say)
    for wait in (*WAITS, None):
        try:
            return _once(api, folder, manifest, files, repo, say)
        except _Away as error:
            if wait is None:
                raise
            say(f"{error.what}; again in {wait} s")
            with _understood(repo, api.endpoint):
                time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _once(
    api: HfApi,
    folder: Path,
    manifest: Manifest,
    files: Sequence[File],
    repo: str,
    say: Callable[[str], None],
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _understood(repo, api.endpoint):
        head = api.model_info(repo).sha
        assert head is not None
        there = _tree(api, repo, head)
        new = [f for f in files if not _holds(there.get(f.name), folder, f)]
        gone = _left_over(api, repo, head, there, files)
        kept = len(files) - len(new)
        if new or gone:
            said = f", {kept} are there already" if kept else ""
            say(f"{repo}: sending {len(new)} files, {told(sum(f.bytes for f in new))}{said}")
            head = api.create_commit(
                repo,
                [
                    *(CommitOperationAdd(f.name, folder / f.name) for f in new),
                    *(CommitOperationDelete(name) for name in gone),
                ],
                commit_message=f"{manifest.suite} {manifest.key}, saectl {manifest.saectl}",
                parent_commit=head,
            ).oid
        there = _tree(api, repo, head)
    wrong = [f.name for f in files if not _holds(there.get(f.name), folder, f)]
    if wrong:
        raise StoreError(
            f"{repo} at {head[:8]} holds {wrong[0]} otherwise than {MANIFEST} lists it"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
            hint="push again; if that does not mend it, a file changed while it was sent",
        )
    return Pushed(
        repo, f"{api.endpoint}/{repo}", head, tuple(f.name for f in new), kept, tuple(gone)
    )


def _client(bars: bool) -> HfApi:
    """Raises SaectlError at once where no token is."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    said = logging.getLogger("huggingface_hub")
    said.setLevel(logging.ERROR)  # its warnings about retries name signed addresses
    if not bars:
        disable_progress_bars()
    if not get_token():
        raise SaectlError("there is no token of the hub on this machine", hint=LOGIN)
    return HfApi(library_name="saectl")


def _repository(api: HfApi, repo: str, *, public: bool, say: Callable[[str], None]) -> None:
    """Make `repo` if it is not there.

    Raises SaectlError when it is public and nobody said that this is meant.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public, exist_ok=True)
        info = api.model_info(repo)
        say(f"{repo}: made, {'private' if info.private else 'public'}")
    if not info.private and not public:
        raise SaectlError(
            f"{repo} is public on the hub, and a push is private unless you say otherwise",
            hint="--public if everybody may see it; else name another repository",
        )
    if info.private and public:
        say(f"{repo} is private and stays so: its settings page on the hub makes it public")


def _tree(api: HfApi, repo: str, commit: str) -> dict[str, Any]:
    """What the repository holds at a commit, by path."""
    found = api.list_repo_tree(repo, recursive=True, revision=commit)
    return {entry.path: entry for entry in found if hasattr(entry, "blob_id")}


def _holds(remote: Any, folder: Path, file: File) -> bool:
    """Whether an entry of the hub's tree is this very file. Large ones have a sha256 there, others
    git's name of their content."""
    if remote is None or remote.size != file.bytes:
        return False
    if remote.lfs is not None:
        return bool(remote.lfs.sha256 == file.sha256)
    with explained(folder / file.name, "read"):
        data = (folder / file.name).read_bytes()
    name = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return bool(remote.blob_id == name) and hashlib.sha256(data).hexdigest() == file.sha256


def _left_over(
    api: HfApi, repo: str, commit: str, there: dict[str, Any], files: Sequence[File]
) -> list[str]:
    """What an earlier release put there, by its own manifest, and this one lacks. Files of others
    are left alone."""
    names = {f.name for f in files}
    if MANIFEST not in there or not set(there) - names:
        return []
    with tempfile.TemporaryDirectory(prefix="saectl-push-") as place:
        path = api.hf_hub_download(repo, MANIFEST, revision=commit, local_dir=place)
        try:
            earlier = set(json.loads(Path(path).read_bytes())["files"])
        except (KeyError, TypeError, ValueError):
            return []
    return sorted((earlier & set(there)) - names)


@contextmanager
def _understood(repo: str, endpoint: str) -> Iterator[None]:
    """Say in our own words what the hub, or the way to it, had against a push."""
    from huggingface_hub import errors as hub

    transport: type[Exception] = hub.HTTPError  # type: ignore[attr-defined]
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {repo} is as it was; {AGAIN}") from None
    except SaectlError:
        raise
    except hub.OfflineModeIsEnabled:
        raise SaectlError(
            f"{repo}: HF_HUB_OFFLINE is set, so the hub is not asked", hint="unset it and push"
        ) from None
    except (RuntimeError, ValueError, OSError, transport) as error:
        if isinstance(error, ValueError) and "README.md" in str(error):
            raise SaectlError(
                f"{repo}: the hub did not take the card's head",
                hint="release.license must be one of the hub's ids (apache-2.0, mit, cc-by-4.0)",
            ) from None
        status = _status(error, hub.HfHubHTTPError)
        if status is not None:
            raise _refused(repo, endpoint, status) from None
        if isinstance(error, ValueError):
            raise
        raise _Away(
            f"{repo}: no answer from {_plain(endpoint)}; nothing was committed", hint=AGAIN
        ) from None


def _status(error: BaseException | None, kind: type[BaseException]) -> int | None:
    """The status with which the hub refused, where it did."""
    while error is not None:
        if isinstance(error, kind):
            return int(error.response.status_code)  # type: ignore[attr-defined]
        error = error.__cause__
    return None


def _refused(repo: str, endpoint: str, status: int) -> SaectlError:
    where = f"{repo} at {_plain(endpoint)}"
    if status == 401:
        return SaectlError(f"{where}: the hub does not know the token (401)", hint=LOGIN)
    if status in (403, 404):
        return SaectlError(
            f"{where}: the token has no right to write there ({status})",
            hint="a token with the role `write`, of a member of that organisation: "
            "`hf auth whoami` says whose it is",
        )
    if status in (409, 412):
        return SaectlError(
            f"{where}: someone else changed the repository meanwhile ({status}); nothing was "
            "committed",
            hint="push again",
        )
    if status == 429 or status >= 500:
        return _Away(
            f"{where}: the hub can't take it now ({status}); nothing was committed", hint=AGAIN
        )
    return SaectlError(
        f"{where}: the hub refused ({status}); nothing was committed",
        hint="push again; if it stays so, look at the hub's status page",
    )


def _plain(endpoint: str) -> str:
    """An address without what may be a password in it."""
    return re.sub(r"://[^/\s@]+@", "://***@", endpoint)
