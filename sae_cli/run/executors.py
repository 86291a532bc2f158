"""Where the jobs of a run are done: here, in slots of this machine, or on a cluster of Ray."""

from __future__ import annotations

from collections.abc import Sequence

from sae_cli.plan.graph import Graph, Stage
from sae_cli.run.context import Context
from sae_cli.run.drive import Pool
from sae_cli.run.inline import Inline
from sae_cli.run.slots import Slots, gpus
from sae_cli.run.world import world_size


def pool_for(
    executor: str, jobs: int | None, graph: Graph, stages: Sequence[Stage], context: Context
) -> Pool:
    """The pool of an executor that stays until all is done (`local`, `ray`).

    `jobs` is how many run beside each other on this machine; None: one for each GPU, else one. One
    job runs in this process. Raises UsageError for a stage that it can never do.
    """
    spec = graph.sweep.spec
    logs = context.workspace.run_dir(spec.name) / "jobs"
    if executor == "ray":
        from sae_cli.run.ray import Ray

        cluster = Ray(context, spec.resources, logs)
        cluster.refuse_too_large(stages)
        return cluster
    count = jobs or (len(gpus()) if context.device in ("auto", "cuda") else 1)
    if count <= 1 or world_size() is not None:
        return Inline(context)
    slots = Slots(context, spec.resources, logs, count)
    slots.refuse_too_large(stages)
    return slots
