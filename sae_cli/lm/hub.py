"""One quick question to the Hugging Face hub, before a library starts minutes of retries.

`ask` says why a repository can't be read, in one word of ours; `load` and `sources` make the
sentence. It never returns a server's or a socket's own text: that may carry a proxy's password
or a signed URL. `scrub` is for the few library messages that are shown.
"""

from __future__ import annotations

import re
from typing import Literal

Trouble = Literal["offline", "gated", "missing", "revision", "empty", "refused"]
"""offline: no answer, or HF_HUB_OFFLINE. gated: licence not accepted. missing: no such repository,
or private. revision: no such commit or branch. empty: the repository lacks what it must have.
refused: the hub answered with another error."""

PATIENCE = 5.0
"""Seconds to wait for the hub before it counts as unreachable."""


def ask(repo: str, kind: Literal["model", "dataset"], revision: str | None) -> Trouble | None:
    """Why `repo` can't be read from the hub now; None when it can.

    A model is asked for its `config.json` (a gated model's files are closed while its page is
    open), a dataset for its page.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub import errors as hub

    try:
        if kind == "model":
            url = hf_hub_url(repo, "config.json", revision=revision)
            get_hf_file_metadata(url, timeout=PATIENCE)
        else:
            HfApi().dataset_info(repo, revision=revision, timeout=PATIENCE)
    except hub.GatedRepoError:
        return "gated"
    except hub.RepositoryNotFoundError:
        return "missing"
    except hub.RevisionNotFoundError:
        return "revision"
    except hub.EntryNotFoundError:
        return "empty"
    except hub.HFValidationError:
        return "missing"
    except hub.HfHubHTTPError:
        return "refused"
    except (transport_error(), OSError):
        return "offline"
    return None


def transport_error() -> type[Exception]:
    """What the hub's client raises when there is no answer; its HTTP library has changed before."""
    from huggingface_hub import errors

    found: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return found


def commit_of(
    repo: str, kind: Literal["model", "dataset"], revision: str | None
) -> tuple[str | None, Trouble | None]:
    """The commit that `revision` (default main) stands for, or the trouble in asking for it."""
    from huggingface_hub import HfApi

    trouble = ask(repo, kind, revision)
    if trouble is not None:
        return None, trouble
    api = HfApi()
    info = api.model_info if kind == "model" else api.dataset_info
    return info(repo, revision=revision, timeout=PATIENCE).sha, None


def fetch_config(repo: str, revision: str | None) -> Trouble | None:
    """Put a model's config.json into the hub's local cache; or the trouble in asking for it."""
    from huggingface_hub import hf_hub_download

    trouble = ask(repo, "model", revision)
    if trouble is None:
        hf_hub_download(repo, "config.json", revision=revision)
    return trouble


def scrub(text: str) -> str:
    """`text` without what may be a secret: hub tokens, and user:password of a URL."""
    text = re.sub(r"hf_[A-Za-z0-9]{8,}", "hf_***", text)
    text = re.sub(r"(?i)(bearer\s+)\S+", r"\1***", text)
    return re.sub(r"://[^/\s@]+@", "://***@", text)


def first_line(error: BaseException) -> str:
    """The first line of an error's own message, scrubbed and of bounded length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return scrub(lines[0])[:300]
