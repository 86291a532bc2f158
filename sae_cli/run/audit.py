"""A release's folder, wherever it was copied to, held against what it says of itself.

Three questions: are the files those of the manifest, do the cards say what the records say, and do
the numbers come out again? What can't be asked here (no model, no text) is told with its reason and
is no failure: only what was looked at and found otherwise is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_cli import __version__
from sae_cli.errors import DataError, ModelError, StoreError
from sae_cli.plan.pin import text_digest
from sae_cli.run.recorded import recorded_model
from sae_cli.spec.stages import DataSpec
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import is_done
from sae_cli.store.releases import Difference, Manifest, differences, read_manifest

SAES = 8
"""SAEs whose numbers are measured again, at most, spread over the suite."""
TOKENS = 4096
"""Held-out tokens that they are measured on, unless `--samples` says otherwise."""


@dataclass
class Audit:
    """What was found."""

    folder: Path
    manifest: Manifest
    differences: list[Difference] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)
    """Cards that say something else than the records."""
    cards_checked: int = 0
    why_no_cards: str | None = None
    numbers: list[Any] = field(default_factory=list)
    """`stages.audit.Again` of each number that was measured again."""
    tokens: int = 0
    why_no_numbers: str | None = None
    broken: list[str] = field(default_factory=list)
    """Records or weights that can't be read."""

    @property
    def ok(self) -> bool:
        """Whether nothing that was looked at is otherwise."""
        return not (self.differences or self.cards or self.broken) and all(
            n.ok for n in self.numbers
        )


def audit(
    folder: Path,
    workspace: Workspace,
    *,
    model: str | None,
    tokens: int,
    on_bytes: Callable[[int], None],
    say: Callable[[str], None],
) -> Audit:
    """Look at all three. `model` is a folder that holds the model, `tokens` how much text numbers
    are measured on (0: none), `workspace` where that text may be. Raises StoreError when the folder
    is no release."""
    found = Audit(folder, read_manifest(folder))
    found.differences = differences(folder, found.manifest, on_bytes)
    _cards(found)
    if not tokens:
        found.why_no_numbers = "--samples 0"
    elif found.differences:
        found.why_no_numbers = "the files are not those of the manifest"
    else:
        _numbers(found, workspace, model, tokens, say)
    return found


def _cards(found: Audit) -> None:
    manifest = found.manifest
    if "saes" not in manifest.record or "release" not in manifest.record:
        found.why_no_cards = "its manifest is of an earlier saectl and lacks what they are made of"
    elif manifest.saectl != __version__:
        found.why_no_cards = f"it was made by saectl {manifest.saectl}, this is {__version__}"
    else:
        try:
            found.cards = importlib.import_module("sae_cli.stages.audit").cards(
                found.folder, manifest
            )
            found.cards_checked = 1 + len(manifest.record["saes"])
        except (StoreError, AttributeError, KeyError, TypeError, ValueError) as error:
            found.broken.append(f"no card can be made of the records: {_said(error)}")


def _numbers(
    found: Audit, workspace: Workspace, model: str | None, tokens: int, say: Callable[[str], None]
) -> None:
    names = list(found.manifest.record.get("saes", ()))
    if not names:
        found.why_no_numbers = "its manifest names no SAEs"
        return
    chosen = _spread(names)
    try:
        records = [read_json(found.folder / n / "cfg.json")["metadata"]["saectl"] for n in chosen]
        groups: dict[str, list[str]] = {}
        for name, own in zip(chosen, records, strict=True):
            groups.setdefault(own["keys"]["tokens"] + str(own["model"]), []).append(name)
        for some in groups.values():
            own = records[chosen.index(some[0])]
            why = _group(found, some, own, workspace, model, tokens, say)
            found.why_no_numbers = found.why_no_numbers or why
    except (ModelError, DataError) as error:
        found.why_no_numbers = _said(error)
    except (StoreError, KeyError, TypeError, ValidationError) as error:
        found.broken.append(f"numbers can't be measured again: {_said(error)}")


def _group(
    found: Audit,
    names: Sequence[str],
    own: dict[str, Any],
    workspace: Workspace,
    model: str | None,
    tokens: int,
    say: Callable[[str], None],
) -> str | None:
    """Measure SAEs of one model and text, or say why that can't be done here."""
    spec = recorded_model(own, model)
    if isinstance(spec, str):
        return spec
    if own.get("out_site") and own["mask"].get("outlier_multiple") is not None:
        return "the norm limit of the site that a transcoder reads is not in a release"
    data, context = own["data"], own["data"]["context"]
    blocks = -(-tokens // context)
    place = next((p for p in workspace.stages("tokens") if p.key == own["keys"]["tokens"]), None)
    here = place is not None and is_done(place)
    if not here:
        for source in data["sources"]:
            if source["builtin"] is None:
                return f"its text is neither built in nor in {workspace.root} (say --store DIR)"
            if source["digest"] != text_digest():
                return "the built-in text is another one in this version of saectl"
    say(f"measuring {len(names)} SAEs again on up to {blocks * context:,} held-out tokens")
    heavy = importlib.import_module("sae_cli.stages.audit")
    if here:
        assert place is not None
        text = heavy.stored_text(place.path, blocks)
    else:
        text = heavy.made_text(DataSpec.model_validate(data), spec, blocks)
    found.tokens = max(found.tokens, int(text.tokens.size))
    found.numbers += heavy.measure(found.folder, names, spec, text, "auto")
    return None


def _spread(names: Sequence[str]) -> list[str]:
    """Up to SAES of them, the first and the last among them."""
    if len(names) <= SAES:
        return list(names)
    return [names[round(i * (len(names) - 1) / (SAES - 1))] for i in range(SAES)]


def _said(error: Exception) -> str:
    """The first line of what is wrong."""
    known = isinstance(error, StoreError | ModelError | DataError)
    return (str(error) if known else f"{type(error).__name__}: {error}").splitlines()[0]
