"""Jobs for several machines at once: what may be split is, so that none stands idle.

Joining stages saves forwards and reads, splitting them saves time; neither changes a result.
"""

from __future__ import annotations

from collections.abc import Sequence

from sae_cli.plan.graph import Stage
from sae_cli.plan.jobs import Job
from sae_cli.spec.work import CacheWork, TokensWork


def spread(jobs: Sequence[Job], width: int) -> list[Job]:
    """`jobs`, with evaluations split until there are `width` of them, or one for each array.

    Only they gain: a capture is shared by its parts, and a pass over stored activations reads them
    once for all of its SAEs.
    """
    out = list(jobs)
    while True:
        evals = [job for job in out if job.stages[0].kind == "eval"]
        largest = max(evals, key=lambda job: len(_arrays(job)), default=None)
        if largest is None or len(evals) >= width or len(_arrays(largest)) < 2:
            return out
        arrays = _arrays(largest)
        first = set(arrays[: len(arrays) // 2])
        at = out.index(largest)
        out[at : at + 1] = [
            Job(tuple(s for s in largest.stages if (_array(s) in first) is half))
            for half in (True, False)
        ]


def parts(stage: Stage) -> int:
    """How many processes a stage can keep busy at once; 1 where that is not known."""
    work = stage.work
    if not isinstance(work, CacheWork) or stage.facts is None:
        return 1
    source = stage.deps["tokens"].work
    assert isinstance(source, TokensWork)
    context, d_in = source.data.context, stage.facts.d_in(work.site)
    rows = -(-source.data.tokens // context) * context
    return -(-rows // work.cache.part_rows(d_in, context, rows))


def _arrays(job: Job) -> list[str]:
    return list(dict.fromkeys(map(_array, job.stages)))


def _array(stage: Stage) -> str:
    return stage.deps["cache"].key
