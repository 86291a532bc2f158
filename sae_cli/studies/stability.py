"""How many latents SAEs that differ in their seed alone find too.

For an SAE with live latents A and a twin with live latents B, and c_ij the cosine of decoder rows
i of A and j of B,

    stability.mmcs_v1     mean over i in A of max_j c_ij
    stability.shared_v1   share of i in A with max_j c_ij > least
    stability.matched_v1  share of i in A whose partner has c_ij > least, partners being one to one
                          and of the largest sum of cosines (Hungarian method)

each the mean over twins. The first is the mean max cosine similarity of Sharkey, Braun and Millidge
(2022) and Cunningham et al. (2023, arXiv 2309.08600, section 3); the last follows Paulo and
Belrose (2025, arXiv 2501.16615), who match latents of two seeds one to one; decoder rows alone
decide here. A latent is live if it fires on the held-out text. What chance gives is the same with
as many rows as the twin has live latents, drawn evenly from the unit sphere, in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_cli.sae.base import SAE
from sae_cli.sae.controls import SEED, random_rows
from sae_cli.spec.studies import StabilityStudy
from sae_cli.studies.bench import Bench, Figure, Findings

MMCS, SHARED, MATCHED = "stability.mmcs_v1", "stability.shared_v1", "stability.matched_v1"
ALL = (MMCS, SHARED, MATCHED)
CELLS = 2**24
"""Cosines that are held at a time, and latents, tokens times width, that are encoded."""
ALONE = "no SAE of the sweep differs from it in its seed alone"
DEAD = "no latent of it, or none of a twin, fires on the held-out text"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """An SAE's live latents beside other rows."""

    best: Floats
    """[live]: the largest cosine of each."""
    partner: Floats | None
    """[pairs]: the cosine of each pair of a one-to-one matching; None where that is too large."""

    def values(self, least: float) -> tuple[float, float, float | None]:
        """MMCS, shared and matched share."""
        live = len(self.best)
        shared = float((self.best > least).sum()) / live
        matched = None if self.partner is None else float((self.partner > least).sum()) / live
        return float(self.best.mean()), shared, matched


def run(spec: StabilityStudy, bench: Bench) -> dict[str, Findings]:
    """What each SAE of the bench shares with its twins, by key."""
    method = {**spec.model_dump(), "seed": SEED}
    asked = {key for key in bench.saes if bench.twins.get(key)}
    wanted = [bench.saes[key] for key in asked]
    wanted += [twin for key in asked for twin in bench.twins[key]]
    live = _live(wanted, bench, spec.heldout_tokens) if asked else {}
    found = {}
    for key, sae in bench.saes.items():
        twins = bench.twins.get(key, ())
        rows = [_unit(each.W_dec)[live[id(each)]] for each in (sae, *twins)] if twins else []
        if not rows or not all(map(len, rows)):
            null = [Figure(name, None, DEAD if rows else ALONE) for name in ALL]
            found[key] = Findings(null, {"twins": len(twins)}, method)
            continue
        own, *others = rows
        chance = [random_rows(len(r), r.shape[1], r.device) for r in others]
        compared = [compare(own, other, spec.match_up_to, bench) for other in others]
        drawn = [compare(own, other, spec.match_up_to, bench) for other in chance]
        figures = [*_figures(compared, spec, None), *_figures(drawn, spec, "random")]
        detail: dict[str, Any] = {
            "twins": [
                {"live": len(other), **dict(zip(ALL, each.values(spec.least), strict=True))}
                for other, each in zip(others, compared, strict=True)
            ],
            "latents": live[id(sae)].nonzero()[:, 0].tolist(),
            "max_cosine": [
                round(float(x), 4) for x in np.mean([each.best for each in compared], axis=0)
            ],
        }
        found[key] = Findings(figures, detail, method)
    return found


def _live(saes: Iterable[SAE], bench: Bench, tokens: int | None) -> dict[int, Tensor]:
    """bool `[d_sae]` of each SAE, by its id: the latents that fire on kept held-out tokens."""
    of = {id(sae): sae for sae in saes}
    live = {i: torch.zeros(s.d_sae, dtype=torch.bool, device=s.W_dec.device) for i, s in of.items()}
    for seen in bench.text("heldout", tokens):
        x = seen.acts[seen.keep]
        for i, sae in of.items():
            for some in torch.split(x, max(1, CELLS // sae.d_sae)):
                live[i] |= (sae.encode(some) != 0).any(0)
        bench.leave("its start: a study begins again")
    return live


def compare(rows: Tensor, others: Tensor, match_up_to: int, bench: Bench) -> Compared:
    """Unit `rows [n, d]` beside unit `others [m, d]`; they are matched one to one where neither
    has more than `match_up_to`."""
    best = []
    match = max(len(rows), len(others)) <= match_up_to
    held: list[NDArray[np.float32]] = []
    for cosines in _cosines(rows, others):
        best.append(cosines.amax(1).double().cpu().numpy())
        if match:
            held.append(cosines.cpu().numpy())
        bench.leave("its start: a study begins again")
    partner = _matched(np.concatenate(held)) if match else None
    return Compared(np.concatenate(best), partner)


def _cosines(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """float32 `[some, m]`, rows in their order."""
    for some in torch.split(rows, max(1, CELLS // len(others))):
        yield some @ others.T


def _matched(cosines: NDArray[np.float32]) -> Floats:
    from scipy.optimize import linear_sum_assignment

    at = linear_sum_assignment(cosines.astype(np.float64), maximize=True)
    found: Floats = cosines[at].astype(np.float64)
    return found


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.float(), dim=1)


def _figures(
    compared: list[Compared], spec: StabilityStudy, control: str | None
) -> Iterator[Figure]:
    seed = SEED if control else None
    live = len(compared[0].best)
    by_name = zip(*(c.values(spec.least) for c in compared), strict=True)
    for name, values in zip(ALL, by_name, strict=True):
        there = [v for v in values if v is not None]
        if len(there) < len(values):
            reason = f"more than {spec.match_up_to:,} latents are live (match_up_to)"
            yield Figure(name, None, reason, control=control, n=live, seed=seed)
            continue
        yield Figure(name, float(np.mean(there)), control=control, n=live, seed=seed)
