"""The controls beside SAEs: made when it is known how many latents an SAE uses, judged like it.

A control has as many components a token as its SAE has latents on the same tokens, L0 rounded to
a whole number, so it is judged in a second pass over the text, with all that an SAE is judged by.
SAEs of one site and L0 share theirs.

The directions of `pca` are those of the model's activations on the first training tokens, made
again by a few forwards: stored activations may have been freed, and a number must not depend on
what is left of them. Held-out text has no say in any control.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from sae_cli.lm import masks
from sae_cli.lm.capture import Capture
from sae_cli.sae.controls import SEED, Control, Covariance, random_rows
from sae_cli.spec.stages import EvalSpec
from sae_cli.stages.eval_place import Place, Site
from sae_cli.stages.eval_sae import Judged
from sae_cli.stages.passes import Passes
from sae_cli.stages.scores import Scores, blank

PCA_TOKENS = 2**16
"""Training tokens, the first ones, that directions are of; all where there are fewer."""
TRANSCODER = "a transcoder predicts another site than it reads: no control does"
NO_TRAINING = "no training token was kept, so there are no principal directions"
Which = tuple[Place, str, int, int]
"""A control: its place, its name, k, and how many random rows it has."""


class Controls:
    """Those of all SAEs of a run, each made and judged once."""

    def __init__(
        self, spec: EvalSpec, model: PreTrainedModel, passes: Passes, device: torch.device
    ) -> None:
        """`passes` are over the training blocks."""
        self._spec, self._model, self._passes, self._device = spec, model, passes, device
        self._directions: dict[Site, torch.Tensor | None] = {}
        self._judged: dict[Which, Scores] = {}
        self._found: dict[Which, dict[str, Any]] = {}

    def beside(self, judged: Iterable[Judged]) -> list[Scores]:
        """What has to be judged yet, for these SAEs, which have been."""
        wanted = dict.fromkeys(
            self._which(each, name)
            for each in judged
            for name in self._spec.controls
            if self._why_not(each) is None
        )
        new = [which for which in wanted if which not in self._found]
        self._find_directions({place.site for place, name, *_ in new if name == "pca"})
        rows: dict[tuple[int, int], torch.Tensor] = {}
        for which in new:
            place, name, k, n = which
            mean = place.site.mean.float()
            drawn = name == "random"
            if name == "pca":
                base = self._directions[place.site]
                if base is None:
                    continue
            elif drawn:
                size = n, len(mean)
                if size not in rows:
                    rows[size] = random_rows(*size, self._device)
                base = rows[size]
            else:
                base = None
            self._judged[which] = Scores(Control(mean, base, k, orthogonal=not drawn), place)
        return list(self._judged.values())

    def settle(self) -> None:
        """Those of `beside` have seen all the text: keep their numbers alone."""
        for which, scores in self._judged.items():
            self._found[which] = scores.record(self._spec)
        self._judged.clear()
        self._directions.clear()

    def records(self, each: Judged) -> list[dict[str, Any]]:
        """The controls of an SAE, in the order of their names."""
        out = []
        for name in self._spec.controls:
            which, why = self._which(each, name), self._why_not(each)
            found = None if why else self._found.get(which)
            head = {
                "name": name,
                "of": each.task.deps["train"].key,
                "k": None if why else which[2],
                "seed": SEED if name == "random" else None,
                "reason": None if found else why or NO_TRAINING,
            }
            out.append(head | (found or blank(each.record(self._spec), head["reason"])))
        return out

    def _which(self, each: Judged, name: str) -> Which:
        rows = each.rebuilt.d_sae if name == "random" else 0
        return each.place, name, _rounded(each), rows

    def _why_not(self, each: Judged) -> str | None:
        if each.place.read is not each.place.site:
            return TRANSCODER
        l0 = each.rebuilt.result()["l0_v1"]
        if l0.value is None:
            return l0.reason
        return None if _rounded(each) else "the SAE's L0 rounds to 0"

    def _find_directions(self, sites: Iterable[Site]) -> None:
        new = sorted(sites, key=lambda site: site.tap.name)
        if not new:
            return
        sums = [Covariance(site.mean) for site in new]
        reader, size = Capture(self._model, [site.tap for site in new]), self._passes.batch_rows
        for b in range(min(self._passes.count, -(-PCA_TOKENS // size))):
            tokens, reasons = self._passes.batch(b)
            for site, total, acts in zip(new, sums, reader(tokens), strict=True):
                rows = acts.flatten(0, 1)
                keep = torch.from_numpy(masks.keep(site.reasons(rows, reasons), site.mask))
                keep[max(0, PCA_TOKENS - b * size) :] = False
                total.add(rows[keep.to(rows.device)].to(self._device))
        for site, total in zip(new, sums, strict=True):
            self._directions[site] = total.directions() if total.n else None


def _rounded(each: Judged) -> int:
    """The SAE's L0 as a whole number; 0 where there is none."""
    return int((each.rebuilt.result()["l0_v1"].value or 0.0) + 0.5)
