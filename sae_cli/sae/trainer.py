"""One SAE's training step, and everything that must survive a restart.

The trainer owns the weights, Adam's moments, the dead-latent counters and the step number, and
nothing else decides the next step but the batch. So a saved state plus the same batches gives the
same bits. It reads no files, draws no random numbers after the start, and refuses to go on with
numbers that are not finite: the step that meets them changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_cli.errors import StoreError, TrainingError
from sae_cli.sae.base import SAE
from sae_cli.sae.fold import fold
from sae_cli.sae.form import Form, Moment, Outcome
from sae_cli.sae.jumprelu import JumpReLU
from sae_cli.sae.relu_l1 import ReluL1
from sae_cli.sae.topk import TopK
from sae_cli.spec.stages import JumpReluTrain, ReluL1Train, TopKTrain, TrainBase

ADAM_EPS = 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def peak_rate(spec: TrainBase, d_in: int, total: int) -> float:
    """The learning rate between warm-up and decay.

    Left out of the spec it is the larger of two:

    - 2e-4 / sqrt(width / 16384), for long runs (Gao et al. 2024 scale it by 1 / sqrt(width);
      the constant is that of the code of their followers);
    - min(0.1, 64 / total) / sqrt(d_in), for short ones. Adam moves a row of d_in weights by at
      most lr * sqrt(d_in) a step, and a row of unit norm must be able to turn around some tens of
      times before the run ends. Measured, TopK: 488 steps on the embedded model (d_in 64, width
      512, k 4) end at FVU 0.114 with the first rule's rate and 0.066 with 0.016; 400 steps on a
      synthetic mixture (d_in 256, width 2048, k 16) at 0.51 with the first and 0.08 with this.

    At width 16384 and d_in 2048 the first takes over at 7,000 steps.
    """
    assert spec.width is not None
    if spec.lr is not None:
        return spec.lr
    return max(2e-4 / math.sqrt(spec.width / 16384), min(0.1, 64 / total) / math.sqrt(d_in))


def learning_rate(spec: TrainBase, d_in: int, step: int, total: int) -> float:
    """The learning rate of a step, counted from 0, out of `total`: linear warm-up over the first
    `lr_warmup` of them, `peak_rate`, then linear decay to zero over the last `lr_decay`.
    """
    warm, cool = spec.lr_warmup * total, spec.lr_decay * total
    rise = min(1.0, (step + 1) / warm) if warm >= 1 else 1.0
    fall = min(1.0, (total - step) / cool) if cool >= 1 else 1.0
    return peak_rate(spec, d_in, total) * min(rise, fall)


class Trainer:
    """Trains one SAE on raw activations.

    `mean [d_in]` and `scale` say what the SAE sees, z = (x - mean) * scale; `fold.scaling` makes
    them from a site's statistics. `spec.width` must be set. Weights are float32 whatever the
    activations are.
    """

    def __init__(
        self,
        spec: TrainBase,
        d_in: int,
        mean: Tensor,
        scale: float,
        device: torch.device | str,
        total_steps: int,
    ) -> None:
        assert spec.width is not None and mean.shape == (d_in,) and total_steps >= 1
        self.spec, self.d_in, self.total = spec, d_in, total_steps
        self.device = torch.device(device)
        self.mean, self.scale = mean.double().cpu(), float(scale)
        self._offset = mean.to(device=self.device, dtype=torch.float32)
        self.form = _form(spec, d_in, self.device)
        self.dead_after = spec.dead_after or max(1, min(10_000_000, spec.num_tokens // 20))
        self.since_fired = torch.zeros(spec.width, dtype=torch.int64, device=self.device)
        self.steps, self.tokens = 0, 0
        self._names = sorted(self.form.params)
        self._adam = torch.optim.Adam(
            [
                {"params": [self.form.params[n]], "scale": self.form.lr_scales.get(n, 1.0)}
                for n in self._names
            ],
            betas=(spec.beta1, spec.beta2),
            eps=ADAM_EPS,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self._last: tuple[Outcome, float, float] | None = None

    @torch.no_grad()
    def step(self, x: Tensor) -> None:
        """One optimizer step on raw activations `x [B, d_in]`, any float dtype.

        Raises TrainingError, with nothing changed, when the loss or a gradient is not finite.
        """
        assert x.dim() == 2 and x.shape[1] == self.d_in and self.steps < self.total
        z = (x.to(device=self.device, dtype=torch.float32) - self._offset) * self.scale
        if self.steps == 0:
            self.form.begin(z)
        moment = Moment(self.steps, self.total)
        outcome = self.form.gradients(z, moment, self._dead())
        norm = self._checked_norm(outcome)
        lr = learning_rate(self.spec, self.d_in, self.steps, self.total)
        grads = [outcome.grads[n] for n in self._names]
        if self.spec.grad_clip is not None and norm > self.spec.grad_clip:
            torch._foreach_mul_(grads, self.spec.grad_clip / norm)
        for group, grad in zip(self._adam.param_groups, grads, strict=True):
            group["params"][0].grad = grad
            group["lr"] = lr * group["scale"]
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.form.settle(outcome, moment)
        self.since_fired.add_(x.shape[0]).masked_fill_(outcome.fired, 0)
        self.steps += 1
        self.tokens += x.shape[0]
        self._last = (outcome, norm, lr)

    def log(self) -> dict[str, float]:
        """What the last step looked like; empty before the first. Waits for the device.

        loss, fvu and l0 are those of the last batch (fvu = squared error / variance about the
        batch's mean); dead_fraction counts latents silent for `dead_after` tokens.
        """
        if self._last is None:
            return {}
        outcome, norm, lr = self._last
        values = {
            "loss": outcome.loss,
            "fvu": outcome.squared_error / outcome.variance,
            "l0": outcome.l0,
            "dead_fraction": (self.since_fired >= self.dead_after).float().mean(),
            **outcome.extra,
        }
        return {n: float(v) for n, v in values.items()} | {"lr": lr, "grad_norm": norm}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on: flat named tensors, and plain JSON values."""
        tensors = {f"param.{n}": t for n, t in self.form.params.items()}
        tensors |= {f"buffer.{n}": t for n, t in self.form.buffers.items()}
        tensors["since_fired"] = self.since_fired
        for name in self._names if self.steps else ():
            state = self._adam.state[self.form.params[name]]
            tensors |= {f"adam.{name}.{key}": state[key] for key in MOMENTS}
        scalars = {"arch": self.form.arch, "step": self.steps, "tokens": self.tokens}
        return {n: t.detach().clone() for n, t in tensors.items()}, scalars

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
        """Go on from a state. Raises StoreError when it belongs to another kind of run."""
        shapes = self._state_shapes(after_a_step=scalars.get("step") != 0)
        given = {n: tuple(t.shape) for n, t in tensors.items()}
        if given != shapes or scalars.get("arch") != self.form.arch:
            wrong = sorted(n for n in shapes.keys() | given.keys() if shapes.get(n) != given.get(n))
            raise StoreError(
                f"this training state is not one of a {self.form.arch} SAE of {self.d_in} x "
                f"{self.spec.width}: arch {scalars.get('arch')}, differs in {wrong}",
                hint="delete the stage's work/ folder to train it from the start",
            )
        for name, param in self.form.params.items():
            param.copy_(tensors[f"param.{name}"])
        for name, buffer in self.form.buffers.items():
            buffer.copy_(tensors[f"buffer.{name}"])
        self.since_fired.copy_(tensors["since_fired"])
        self._adam.state.clear()
        for name in self._names if int(scalars["step"]) else ():
            param = self.form.params[name]
            self._adam.state[param] = {
                key: torch.empty_like(param if key != "step" else tensors[f"adam.{name}.step"])
                .to(param.device)
                .copy_(tensors[f"adam.{name}.{key}"])
                for key in MOMENTS
            }
        self.steps, self.tokens = int(scalars["step"]), int(scalars["tokens"])
        self._last = None

    def finish(self) -> SAE:
        """The SAE as it stands, folded to raw activations: float32, on the CPU."""
        return fold(self.form.scaled(), self.mean, self.scale)

    def _state_shapes(self, after_a_step: bool) -> dict[str, tuple[int, ...]]:
        params = {n: tuple(t.shape) for n, t in self.form.params.items()}
        shapes = {f"param.{n}": shape for n, shape in params.items()}
        shapes |= {f"buffer.{n}": tuple(t.shape) for n, t in self.form.buffers.items()}
        shapes["since_fired"] = tuple(self.since_fired.shape)
        for name, shape in params.items() if after_a_step else ():
            shapes |= {f"adam.{name}.{k}": () if k == "step" else shape for k in MOMENTS}
        return shapes

    def _dead(self) -> Tensor | None:
        if self.tokens < self.dead_after:
            return None
        dead = (self.since_fired >= self.dead_after).nonzero().flatten()
        return dead if dead.numel() else None

    def _checked_norm(self, outcome: Outcome) -> float:
        norms = torch._foreach_norm(list(outcome.grads.values()))
        norm = torch.linalg.vector_norm(torch.stack(norms))
        loss_and_norm = torch.stack([outcome.loss.float(), norm]).tolist()
        for what, value in zip(("loss", "gradient norm"), loss_and_norm, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"{what} is {value} at step {self.steps} of {self.total} ({self.form.arch})",
                    hint="lower train.lr, or look for broken activations in the cache",
                )
        return float(loss_and_norm[1])


def _form(spec: TrainBase, d_in: int, device: torch.device) -> Form:
    generator = torch.Generator().manual_seed(spec.seed)
    if isinstance(spec, TopKTrain):
        return TopK(spec, d_in, generator, device)
    if isinstance(spec, ReluL1Train):
        return ReluL1(spec, d_in, generator, device)
    assert isinstance(spec, JumpReluTrain)
    return JumpReLU(spec, d_in, generator, device)
