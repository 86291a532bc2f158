"""The folder of a site: `index.html`, and for each SAE and each text a folder of its own.

    index.html                 the page, with its script and its looks, and nothing of the data
    saes.js                    which SAEs there are
    text-0/words.js            what the tokens say that are shown
    text-0/corpus-000.js       windows of text
    <sae>/index.bin.js         numbers of all features
    <sae>/feat-000.js          pages of 256 features

It is written beside its place and renamed into it, so a site that is there is whole. The same data
makes the same bytes. It replaces a site, and no other folder.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
import zlib
from collections.abc import Mapping
from importlib.resources import files as package_files
from pathlib import Path
from types import TracebackType
from typing import Any

from sae_cli import __version__
from sae_cli.errors import StoreError, UsageError
from sae_cli.report.browser import shards
from sae_cli.report.browser.pack import read, script
from sae_cli.report.browser.texts import SiteText, Words
from sae_cli.report.palette import DARK, LIGHT, variables
from sae_cli.store.atomic import explained
from sae_cli.store.dashboards import Corpus, Dashboard

INDEX, SAES = "index.html", "saes.js"
SCRIPTS = ("data", "dom", "list", "examples", "feature", "live", "app")
LIVE = "data-live"
"""The attribute of a page that a server serves, which has more to ask."""


class Site:
    """A context manager: the site is there when the block ends without an error."""

    def __init__(self, out: Path, made_of: str = "") -> None:
        """`made_of` is what `about(out)` tells later. Raises UsageError where `out` holds something
        else than a site."""
        if out.exists() and not is_site(out) and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                f"{out} is there already and is no site of saectl browse",
                hint="say another folder with --out",
            )
        self.out, self.bytes, self._made_of = out, 0, made_of
        self._draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
        self._texts: list[SiteText] = []
        self._saes: list[dict[str, Any]] = []

    def text(self, corpus: Corpus, words: Words, vocabulary: int) -> SiteText:
        """A text that SAEs added later were watched on; `words(ids)` says its tokens, of which
        there may be `vocabulary`."""
        self._texts.append(SiteText(f"text-{len(self._texts)}", corpus, words, vocabulary))
        return self._texts[-1]

    def add(self, found: Dashboard, text: SiteText) -> str:
        """Write an SAE's files; the name of its folder."""
        taken = {each["folder"].lower() for each in self._saes} | {t.folder for t in self._texts}
        folder = found.name
        while folder.lower() in taken:
            folder += "+"
        for name, data in shards.files(found, text, folder):
            self._write(name, data)
        self._saes.append(
            {
                "folder": folder,
                "name": found.name,
                "facts": dict(found.facts),
                "features": found.features,
                "dead": int((found.fired == 0).sum()),
                "notes": len(found.notes),
                "tokens": found.tokens,
                "text": text.corpus.name,
            }
        )
        return folder

    def __enter__(self) -> Site:
        with explained(self._draft):
            self._draft.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._draft, ignore_errors=True)

    def _finish(self) -> None:
        for text in self._texts:
            for name, data in text.files():
                self._write(name, data)
        self._write(SAES, script("saes", self._about(), {}))
        self._write(INDEX, page().encode())
        old = self._draft.with_suffix(".old")
        with explained(self.out):
            if self.out.exists():
                self.out.replace(old)
            self._draft.replace(self.out)
        shutil.rmtree(old, ignore_errors=True)

    def _about(self) -> dict[str, Any]:
        return {"saectl": __version__, "made_of": self._made_of, "saes": self._saes}

    def _write(self, name: str, data: bytes) -> None:
        path = self._draft / name
        with explained(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        self.bytes += len(data)


def is_site(folder: Path) -> bool:
    """Whether it is a folder that `Site` wrote."""
    index = folder / INDEX
    try:
        return (folder / SAES).is_file() and b"saectl browse" in index.read_bytes()[:1000]
    except OSError:
        return False


def about(folder: Path) -> Any:
    """What a site says of itself: `made_of`, and its `saes` with their folders; None for none."""
    try:
        return read((folder / SAES).read_bytes())[1] if is_site(folder) else None
    except (OSError, ValueError, zlib.error):
        return None


def page() -> str:
    """`index.html`. A policy in it lets no script run but its own and files beside it, and asks
    the network for nothing but what a server of the same page offers.

    Raises StoreError where the package lacks its files.
    """
    own = package_files("sae_cli.report")
    here = own / "browser" / "assets"
    try:
        files = [*(here / f"{name}.js" for name in SCRIPTS), own / "tip.js"]
        parts = [file.read_text("utf-8") for file in files]
        css, html = (here / "page.css").read_text("utf-8"), (here / "page.html").read_text("utf-8")
    except OSError as error:
        raise StoreError(f"this saectl was installed without its pages: {error}") from error
    code = '"use strict";\n' + "\n".join(parts)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    filled: Mapping[str, str] = {
        "policy": f"default-src 'none'; script-src 'sha256-{digest}' 'self' file:; "
        "style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'",
        "css": css.replace("/*light*/", variables(LIGHT)).replace("/*dark*/", variables(DARK)),
        "code": code,
    }
    for name, value in filled.items():
        html = html.replace(f"<!--{name}-->", value)
    return html
