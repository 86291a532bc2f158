"""Adam over a form's parameters in one fused pass, with moments in float32 or bfloat16.

Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1, as torch fuses it: a parameter, its gradient and
its moments are read once and written once. bfloat16 moments are widened, moved and rounded a few
rows at a time. They are rounded at random, up or down in proportion, because the second moment
moves by less than half of bfloat16's step and would stand still if it were rounded to the nearest;
the noise is a function of the step, so a resumed run draws the same. 8-bit moments are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from sae_cli.sae.mesh import SINGLE, Mesh, is_split
from sae_cli.sae.unit import renormalise

EPS = 1e-8
KINDS = ("exp_avg", "exp_avg_sq", "step")
ROWS_BYTES = 2**20
"""Bytes of float32 that are widened at a time."""


class Adam:
    """The moments of `params`, which it changes in place. A step is one call.

    State, by names `{param}.exp_avg`, `{param}.exp_avg_sq` (as the parameter, in `dtype`) and
    `{param}.step` (0-d float32). Rows of the parameters in `unit` are brought back to unit norm.
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
        assert dtype in (torch.float32, torch.bfloat16)
        self._params = {name: params[name] for name in sorted(params)}
        self._betas = (beta1, beta2)
        self._mesh, self._unit = mesh, frozenset(unit)
        self.state: dict[str, Tensor] = {}
        for name, param in self._params.items():
            for kind in KINDS[:2]:
                self.state[f"{name}.{kind}"] = torch.zeros_like(param, dtype=dtype)
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
        param = self._params[name]
        first, second, step = (self.state[f"{name}.{kind}"] for kind in KINDS)
        parts = [(param, grad, first, second)]
        narrow = first.dtype != param.dtype
        if narrow:
            rows = max(1, ROWS_BYTES // (param[0].numel() * 4))
            parts = list(zip(*(torch.split(t, rows) for t in parts[0]), strict=True))
            noise = self._noise(name, rows, number)
        for p, g, m, v in parts:
            wide = (m.float(), v.float()) if narrow else (m, v)
            torch._fused_adam_(
                [p], [g], [wide[0]], [wide[1]], [], [step],
                lr=rate, beta1=self._betas[0], beta2=self._betas[1], weight_decay=0.0,
                eps=EPS, amsgrad=False, maximize=False, grad_scale=shrink, found_inf=skip,
            )  # fmt: skip
            if narrow:
                for kept, exact in zip((m, v), wide, strict=True):
                    kept.copy_(_rounded(exact, noise[: exact.shape[0]]))
        if name in self._unit:
            renormalise(param)

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


def _rounded(exact: Tensor, noise: Tensor) -> Tensor:
    """float32 to bfloat16, up or down with a chance in proportion to the distance; in place."""
    bits = exact.view(torch.int32)
    return bits.add_(noise).bitwise_and_(-(2**16)).view(torch.float32).bfloat16()
