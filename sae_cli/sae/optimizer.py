"""Adam over a form's parameters in one fused pass, moments in float32, bfloat16 or 8 bits.

Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1, as torch fuses it: a parameter, its gradient and
its moments are read once and written once. Narrow moments are widened, moved and rounded a few
rows at a time. They are rounded at random, up or down in proportion, because the second moment
moves by less than half of bfloat16's step and would stand still if it were rounded to the nearest;
the noise is a function of the step, so a resumed run draws the same. In 8 bits (`quantised`) are
the moments of matrices; those of vectors, which have one number where a matrix has a row, stay
float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from sae_cli.sae import quantised
from sae_cli.sae.mesh import SINGLE, Mesh, is_split
from sae_cli.sae.unit import renormalise

EPS = 1e-8
CODES = {"exp_avg": torch.int8, "exp_avg_sq": torch.uint8}
"""The two moments, and the format of their codes in 8 bits."""
ROWS_BYTES = 2**20
"""Bytes of float32 that are widened at a time."""


class Adam:
    """The moments of `params`, which it changes in place. A step is one call.

    State, by names `{param}.exp_avg`, `{param}.exp_avg_sq` (as the parameter, in `dtype`) and
    `{param}.step` (0-d float32). With int8 a matrix has int8 and uint8 codes there, and their
    scales beside them, `{param}.exp_avg_scale` and `{param}.exp_avg_sq_scale`. Rows of the
    parameters in `unit` are brought back to unit norm.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        beta1: float,
        beta2: float,
        dtype: torch.dtype,
        mesh: Mesh = SINGLE,
        unit: Collection[str] = (),
    ) -> None:
        assert dtype in (torch.float32, torch.bfloat16, torch.int8)
        self._params = {name: params[name] for name in sorted(params)}
        self._betas = (beta1, beta2)
        self._mesh, self._unit = mesh, frozenset(unit)
        self.state: dict[str, Tensor] = {}
        for name, param in self._params.items():
            for kind, codes in CODES.items():
                place = f"{name}.{kind}"
                if dtype != torch.int8:
                    self.state[place] = torch.zeros_like(param, dtype=dtype)
                elif param.dim() == 1:
                    self.state[place] = torch.zeros_like(param)
                else:
                    self.state[place], scales = quantised.zeros(param, codes)
                    self.state[f"{place}_scale"] = scales
            self.state[f"{name}.step"] = torch.zeros((), device=param.device)

    def step(
        self,
        grads: Mapping[str, Tensor],
        rates: Mapping[str, float],
        number: int,
        shrink: Tensor | None = None,
        skip: Tensor | None = None,
    ) -> None:
        """Move every parameter by its gradient, at its rate, in step `number` of the run.

        `shrink` (0-d) divides all gradients first, in place; where `skip` (0-d) is 1, nothing
        changes. Both stay on the device.
        """
        for name in self._params:
            step = self.state[f"{name}.step"]
            step += 1.0 if skip is None else 1.0 - skip
            self._move(name, grads[name], rates[name], number, shrink, skip)

    def _move(
        self,
        name: str,
        grad: Tensor,
        rate: float,
        number: int,
        shrink: Tensor | None,
        skip: Tensor | None,
    ) -> None:
        """Move one parameter, whose own step count is up already."""
        param, step = self._params[name], self.state[f"{name}.step"]
        moments = [self._moment(name, kind) for kind in CODES]
        rows, noise = param.shape[0], None
        if moments[0][0].dtype != param.dtype:
            rows = max(1, ROWS_BYTES // (param[0].numel() * 4))
            noise = self._noise(name, rows, number)
        for start in range(0, param.shape[0], rows):
            at = slice(start, start + rows)
            kept = [[part[at] for part in moment] for moment in moments]
            wide = [_widened(*moment) for moment in kept]
            torch._fused_adam_(
                [param[at]], [grad[at]], [wide[0]], [wide[1]], [], [step],
                lr=rate, beta1=self._betas[0], beta2=self._betas[1], weight_decay=0.0,
                eps=EPS, amsgrad=False, maximize=False, grad_scale=shrink, found_inf=skip,
            )  # fmt: skip
            if noise is not None:
                for moment, exact in zip(kept, wide, strict=True):
                    _narrow(exact, noise[: exact.shape[0]], *moment)
        if name in self._unit:
            renormalise(param, skip)

    def _moment(self, name: str, kind: str) -> list[Tensor]:
        """A moment's numbers, or its codes and their scales."""
        scales = self.state.get(f"{name}.{kind}_scale")
        return [self.state[f"{name}.{kind}"], *([] if scales is None else [scales])]

    def _noise(self, name: str, rows: int, seed: int) -> Tensor:
        """Integers from 0 to 2^16 - 1, for up to `rows` of a parameter, a function of `seed`.

        All rows that are rounded together share them: only a weight's own sequence must be fair.
        Those of a shard of latents are the ones that its rows have in the whole.
        """
        param = self._params[name]
        whole = self._mesh.whole_shape(name, param)
        shape = (min(rows, whole[0]), *whole[1:])
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(2**16, shape, generator=generator, dtype=torch.int32)
        if is_split(name, param) and self._mesh.latent > 1:
            drawn = drawn.roll(-(self._mesh.first(param.shape[0]) % shape[0]), 0)
        return drawn.to(param.device)


def _widened(kept: Tensor, scales: Tensor | None = None) -> Tensor:
    """A moment as float32: of float32 the moment itself."""
    return kept.float() if scales is None else quantised.widened(kept, scales)


def _narrow(exact: Tensor, noise: Tensor, kept: Tensor, scales: Tensor | None = None) -> None:
    """Write `exact` to what is kept of it, each number rounded up or down with a chance in
    proportion to the distance. Spends `exact`."""
    if scales is not None:
        quantised.narrow(exact, noise, kept, scales)
        return
    bits = exact.view(torch.int32)
    kept.copy_(bits.add_(noise).bitwise_and_(-(2**16)).view(torch.float32).bfloat16())
