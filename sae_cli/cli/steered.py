"""How `saectl steer` ends: what the features of each SAE did to refusal, in a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sae_cli.cli import render
from sae_cli.plan.graph import Stage
from sae_cli.plan.place import folder
from sae_cli.report.catalogue import KEPT
from sae_cli.report.gather import STUDY
from sae_cli.spec.work import CacheWork, StudyWork
from sae_cli.store.atomic import read_json
from sae_cli.store.layout import Workspace

HEAD = ["layer", "site", "features", "strength", "harmless", "steered", "random", "worst",
        "harmful", "steered", "KL"]  # fmt: skip
_CLAMPED = "suppress,clamp"


def show(chosen: Sequence[Stage], workspace: Workspace) -> None:
    """Print a table of those of the chosen steering studies that are done: refusal on harmless and
    harmful test prompts, before and after, beside random features; marked where it was suppressed.
    """
    found = []
    for stage in chosen:
        if isinstance(stage.work, StudyWork) and stage.work.study.study == "steering":
            record = read_json(folder(workspace, stage).path / STUDY)
            if record is not None:
                found.append((stage, record))
    if not found:
        return
    suppressed = any(_value(record, "steering.suppressed_v1", of=_CLAMPED) for _, record in found)
    print("refusal of test prompts, before and steered; random features at the same length of edit")
    render.table([*HEAD, *(["suppressed"] if suppressed else [])], [
        _row(stage, record, suppressed) for stage, record in found
    ], right=HEAD[2:])  # fmt: skip


def _row(stage: Stage, record: Mapping[str, Any], suppressed: bool) -> tuple[object, ...]:
    place = stage.deps["cache"].work
    assert isinstance(place, CacheWork)
    features = [each["feature"] for each in record["detail"].get("features", ())]

    def share(name: str, control: str | None = None, of: str = KEPT) -> str:
        found = _value(record, f"steering.{name}_v1", control, of)
        return "-" if found is None else f"{found:.1%}"

    def number(name: str) -> str:
        found = _value(record, f"steering.{name}_v1")
        return "-" if found is None else f"{found:.3g}"

    return (
        place.layer, place.site, "+".join(map(str, features)) or "-", number("strength"),
        share("baseline_harmless"), share("induced"), share("induced", "random_features"),
        share("induced", "random_features_worst"), share("baseline_harmful"), share("refused"),
        number("kl"), *([share("suppressed", of=_CLAMPED)] if suppressed else []),
    )  # fmt: skip


def _value(
    record: Mapping[str, Any], metric: str, control: str | None = None, of: str = KEPT
) -> float | None:
    for figure in record["figures"]:
        if (figure["metric"], figure["control"], figure["slice"]) == (metric, control, of):
            value: float | None = figure["value"]
            return value
    return None
