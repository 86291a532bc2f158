"""Who reads a stage now: what its data must not be deleted under.

Asked of the disk: the claims of other stages, and what their specs say they are made from. A
holder that was not heard of for a while counts as alive: better to keep data too long.
"""

from __future__ import annotations

from collections.abc import Collection

from sae_cli.store.atomic import read_json
from sae_cli.store.layout import StageDir, Workspace
from sae_cli.store.records.holder import LONG_AGO
from sae_cli.store.records.status import Status, state


def readers(stage: StageDir, kinds: Collection[str] | None = None) -> list[str]:
    """Names (kind/slug-key) of the stages, of some kinds or all, that are worked on now and read
    `stage`, sorted. Raises StoreError when a spec is damaged."""
    found = []
    for other in Workspace(stage.path.parent.parent).stages():
        if not other.claims or (kinds is not None and other.kind not in kinds):
            continue
        deps = (read_json(other.spec) or {}).get("deps", {})
        if stage.key in deps.values() and state(other, lease=LONG_AGO).status is Status.RUNNING:
            found.append(f"{other.kind}/{other.path.name}")
    return found
