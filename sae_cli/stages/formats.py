"""A release's SAEs in the files of other projects, each compared with ours before it counts.

The comparison is of latents and outputs, on rows drawn with the mean and variance of the site's
stored statistics: the held-out activations themselves are not kept. The other side is the peer's
own formula on the files that were written (`store.formats`), both in float64, so that a difference
is one of convention or of the last digit of a folded bias, and not of two orders of summation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.sae.base import SAE
from sae_cli.store.acts.moments import Moments
from sae_cli.store.formats import circuit_tracer
from sae_cli.store.formats.coder import Coder
from sae_cli.store.formats.registry import FORMATS
from sae_cli.store.weights import load_sae

ROWS, SEED = 256, 0
TOLERANCE = 1e-5
"""Largest difference of an output, as a share of the largest output; and how near to its boundary,
as a share of the largest latent, a latent must be that is active on one side alone."""
DIGITS = 9
"""Of a difference in the record: behind them it hangs on the machine."""
FOLDER = "formats"


@dataclass(frozen=True)
class Released:
    """An SAE of a release: where it is, so that a suite need not fit into memory."""

    name: str
    """Of its folder."""
    folder: Path
    layer: int
    stats: Moments
    """Of what it reads."""
    sweep: Mapping[str, Any]
    """All that was asked for but the layer; equal for the layers of a set."""

    def load(self) -> tuple[Coder, Tensor]:
        """The SAE, and rows to compare it on."""
        held = load_sae(self.folder)
        coder = Coder(held.tensors, held.arch, held.k, held.cfg["metadata"])
        return coder, rows_like(self.stats)


@dataclass
class Account:
    """What became of a format, for manifest and card."""

    checked: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By folder of an SAE: where its files are and how they compare."""
    refused: dict[str, str] = field(default_factory=dict)
    """By folder of an SAE, why the format can't hold it."""

    @property
    def worst(self) -> float:
        """The largest of the differences."""
        return max(float(found["max_difference"]) for found in self.checked.values())

    @property
    def reasons(self) -> dict[str, int]:
        """How many SAEs are not in it, for each reason."""
        return dict(Counter(self.refused.values()))


def rows_like(stats: Moments) -> Tensor:
    """[ROWS, d] float64: normal rows with these means and variances, seeded."""
    generator = torch.Generator().manual_seed(SEED)
    z = torch.randn(ROWS, len(stats.mean), generator=generator, dtype=torch.float64)
    return stats.mean + stats.var.sqrt() * z


def export(
    names: Sequence[str], saes: Sequence[Released], draft: Path, between: Callable[[], None]
) -> dict[str, Account]:
    """Write `formats/<format>/<SAE>/` of each SAE that a format can hold into `draft`; `between`
    is called after each SAE.

    Raises StoreError when a format can hold none, or a file that was written computes something
    else than the SAE; see `compare`.
    """
    accounts = {name: Account() for name in names}
    sets = _sets(saes)
    for sae in saes:
        coder, x = sae.load()
        for name, account in accounts.items():
            place, gap = sets[sae.name] if name == "circuit-tracer" else (sae.name, None)
            reason = FORMATS[name].refusal(coder) or gap
            if reason is not None:
                account.refused[sae.name] = reason
                continue
            where = f"{FOLDER}/{name}/{place}"
            FORMATS[name].write(coder, draft / where)
            found = compare(name, sae.name, coder, x, draft / where)
            account.checked[sae.name] = {"folder": where, **found}
        between()
    for name, account in accounts.items():
        if not account.checked:
            why = "; ".join(f"{sae}: {reason}" for sae, reason in account.refused.items())
            raise StoreError(
                f"release.formats: {name} can hold none of these SAEs ({why})",
                hint=f"take {name} out of release.formats",
            )
    return accounts


def compare(name: str, sae: str, coder: Coder, x: Tensor, folder: Path) -> dict[str, Any]:
    """How the files in `folder` compare with the SAE on `x [n, d_in]` float64: rows,
    max_difference (of outputs, as a share of the largest), l0 of both, and rows on which a latent
    sat on its boundary and fell on either side.

    Raises StoreError when a latent that is not on its boundary is active on one side alone, or
    outputs differ by more than TOLERANCE.
    """
    ours = SAE.from_tensors(coder.tensors, coder.arch, coder.k).to(dtype=torch.float64)
    f, pre = ours.encode(x), x @ ours.W_enc + ours.b_enc
    theirs, out = FORMATS[name].apply(folder, x, coder.layer)
    differ = (f > 0) != (theirs != 0)
    near = (pre - _boundary(ours, pre)).abs() <= TOLERANCE * float(f.max())
    wrong = differ & ~near
    if bool(wrong.any()):
        row, latent = wrong.nonzero()[0].tolist()
        raise _other(
            name,
            sae,
            f"on {int(wrong.any(1).sum())} of {len(x)} rows other latents are active; latent "
            f"{latent} of row {row} is {float(theirs[row, latent]):.4g} there and "
            f"{float(f[row, latent]):.4g} here",
        )
    wanted = ours.decode(f, x)
    same = ~differ.any(1)
    off = float((out - wanted)[same].abs().max()) if bool(same.any()) else 0.0
    share = off / max(float(wanted.abs().max()), 1e-30)
    if not share <= TOLERANCE:
        said = f"outputs differ by up to {share:.2g} of the largest; {TOLERANCE:g} is allowed"
        raise _other(name, sae, said)
    l0, l0_there = (float((active != 0).sum(1).double().mean()) for active in (f, theirs))
    return {
        "rows": len(x),
        "max_difference": round(share, DIGITS),
        "l0": l0,
        "l0_there": l0_there,
        "rows_on_a_boundary": int((~same).sum()),
    }


def _other(name: str, sae: str, what: str) -> StoreError:
    return StoreError(
        f"{sae} as {name} would be another SAE: {what}",
        hint=f"take {name} out of release.formats; nothing was released",
    )


def _boundary(sae: SAE, pre: Tensor) -> Tensor:
    """[n, d_sae] or what broadcasts to it: the pre-activation from which on a latent is active."""
    if sae.arch == "topk":
        assert sae.k is not None
        return pre.topk(sae.k, dim=1).values[:, -1:].clamp_min(0.0)
    return torch.zeros_like(sae.b_enc) if sae.threshold is None else sae.threshold


def _sets(saes: Sequence[Released]) -> dict[str, tuple[str, str | None]]:
    """Of each SAE the folder that it shares with those that differ in their layer alone, called as
    layer 0 is without the layer; and why they make no set, if they don't."""
    groups: dict[str, list[Released]] = {}
    for sae in saes:
        groups.setdefault(repr(sorted(sae.sweep.items())), []).append(sae)
    placed: dict[str, tuple[str, str | None]] = {}
    for group in groups.values():
        first = min(group, key=lambda s: s.layer)
        place = first.name.replace(f".L{first.layer}.", ".", 1)
        gap = circuit_tracer.gap([s.layer for s in group])
        placed |= {s.name: (place, gap) for s in group}
    return placed
