"""`--push ORG/NAME` of `run` and `release`: the finished release to the Hugging Face hub, or, with
`--dry-run`, the list of what would go there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sae_cli.cli import render
from sae_cli.cli.output import FileLine, PushLine, PushPlan
from sae_cli.cli.progress import reporter
from sae_cli.cli.session import Opened
from sae_cli.errors import UsageError
from sae_cli.plan.graph import Graph
from sae_cli.plan.place import folder
from sae_cli.run import push as pushing
from sae_cli.store.layout import Workspace
from sae_cli.store.records.ledger import is_done
from sae_cli.store.records.space import told


@dataclass(frozen=True)
class Push:
    """What was asked for."""

    repo: str
    public: bool


def asked(repo: str | None, public: bool, sweeps: Sequence[Opened], *, here: bool) -> Push | None:
    """`here`: the stages run on this machine. Raises UsageError for what makes no sense."""
    if repo is None:
        if public:
            raise UsageError("--public is about --push ORG/NAME: say both")
        return None
    pushing.check_name(repo)
    if len(sweeps) > 1:
        named = ", ".join(each.graph.sweep.spec.name for each in sweeps)
        raise UsageError(
            f"--push {repo} is one repository, and these are several sweeps: {named}",
            hint="name the sweep: saectl release SPEC --push ORG/NAME",
        )
    if not here:
        raise UsageError(
            "--push is for this machine, once the release is there",
            hint="hand the stages over first; when `saectl status` says done, push from here",
        )
    return Push(repo, public)


def preview(push: Push, graph: Graph, workspace: Workspace, *, as_json: bool) -> bool:
    """Print what would be pushed, and ask nobody; False where the release is not made yet."""
    (stage,) = graph.of("release")
    place, name = folder(workspace, stage), graph.sweep.spec.name
    if not is_done(place):
        print(f"push to {push.repo}: its files are known once the release is made", file=sys.stderr)
        return False
    _, _, files = pushing.sound(place, name)
    size = sum(f.bytes for f in files)
    if as_json:
        lines = tuple(FileLine(name=f.name, bytes=f.bytes, sha256=f.sha256) for f in files)
        plan = PushPlan(repo=push.repo, private=not push.public, bytes=size, files=lines)
        print(plan.model_dump_json(indent=2))
        return True
    render.table(["file", "bytes"], [(f.name, told(f.bytes)) for f in files], right=["bytes"])
    seen = "public" if push.public else "private"
    print(f"{len(files)} files, {told(size)}, would go to {push.repo} ({seen})")
    return True


def send(push: Push, graph: Graph, workspace: Workspace, *, quiet: bool) -> PushLine:
    """Push the sweep's release, which is done."""
    (stage,) = graph.of("release")
    report = reporter(quiet=quiet)
    try:
        place = folder(workspace, stage)
        at, manifest, files = pushing.sound(place, graph.sweep.spec.name)
        found = pushing.push(
            at, manifest, files, push.repo,
            public=push.public, say=report.note, bars=not quiet and sys.stderr.isatty(),
        )  # fmt: skip
    finally:
        report.close()
    return PushLine(
        repo=found.repo, url=found.url, commit=found.commit, sent=found.sent, kept=found.kept,
        removed=found.removed,
    )  # fmt: skip


def tell(line: PushLine) -> str:
    """One line for a person."""
    gone = f", {len(line.removed)} removed" if line.removed else ""
    return (
        f"pushed: {line.url} at {line.commit[:8]} ({len(line.sent)} files sent, {line.kept} were "
        f"there{gone})"
    )
