"""One SAE's training step, and everything that must survive a restart.

The trainer owns the weights, Adam's moments, the dead-latent counters and the step number, and
nothing else decides the next step but the batch. So a saved state plus the same batches gives the
same bits. It reads no files, draws no random numbers that are not a function of the step, and
refuses to go on with numbers that are not finite. On a CPU the step that meets them changes
nothing and says so; on a GPU, where looking would stop the device, that step and all later ones
leave weights, thresholds, moments and the average alone, and whoever asks for the state, the SAE or
the log is told which step it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sae_cli.errors import StoreError
from sae_cli.sae.average import Average
from sae_cli.sae.base import SAE
from sae_cli.sae.faults import Faults
from sae_cli.sae.fold import fold
from sae_cli.sae.form import Moment, Outcome, Scaled
from sae_cli.sae.forms import make_form
from sae_cli.sae.kernels.choice import backend_for
from sae_cli.sae.later import Later
from sae_cli.sae.mesh import SINGLE, Mesh, add_up
from sae_cli.sae.schedule import learning_rate
from sae_cli.sae.subspace import into_active_subspace
from sae_cli.sae.transcoder import Transcoding
from sae_cli.spec.train_base import TrainBase


class Trainer:
    """Trains one SAE on raw activations.

    `mean [d_in]` and `scale` say what the SAE sees, z = (x - mean) * scale; `fold.scaling` makes
    them from a site's statistics. `spec.width` must be set. Weights are float32 whatever the
    activations are. A transcoder has the mean `[d_out]` and scale of what it predicts as `target`,
    and its steps get that as well. `backend` is the one that `spec.kernels` asks for; TrainingError
    where it can't run on `device`. With a `mesh` of several processes each has a trainer that keeps
    its own part of the weights; all are given the same batches and called in the same order, and
    what ends one ends all.
    """

    def __init__(
        self,
        spec: TrainBase,
        d_in: int,
        mean: Tensor,
        scale: float,
        device: torch.device | str,
        total_steps: int,
        mesh: Mesh = SINGLE,
        target: tuple[Tensor, float] | None = None,
    ) -> None:
        assert spec.width is not None and mean.shape == (d_in,) and total_steps >= 1
        self.spec, self.d_in, self.total = spec, d_in, total_steps
        self.device = torch.device(device)
        self.mean, self.scale = mean.double().cpu(), float(scale)
        self._offset = mean.to(device=self.device, dtype=torch.float32)
        self.mesh, self._target = mesh, target
        self._target_offset = None if target is None else target[0].to(self._offset)
        self.backend = backend_for(spec.kernels, self.device)
        d_out = None if target is None else target[0].numel()
        self.form = make_form(spec, d_in, self.device, mesh, d_out)
        self.form.backend = self.backend
        self.dead_after = spec.dead_after or max(1, min(10_000_000, spec.num_tokens // 20))
        own = spec.width // mesh.latent
        self.since_fired = torch.zeros(own, dtype=torch.int64, device=self.device)
        self.steps, self.tokens = 0, 0
        self._adam = self.backend.Adam(
            self.form.params, spec.beta1, spec.beta2, getattr(torch, spec.moments_dtype), mesh,
            unit=self.form.unit,
        )  # fmt: skip
        self._average = (
            None if spec.ema_decay is None else Average(self.form.params, spec.ema_decay)
        )
        self.faults = Faults(self.device, total_steps, self.spec_arch)
        self._silent: Later | None = None
        self._last: dict[str, Tensor] = {}
        self._rate = 0.0

    @property
    def calibrates(self) -> bool:
        """Whether `calibrate` must be called before `finish`."""
        return self.form.calibrates

    def prepare(self, x: Tensor) -> Tensor:
        """What the SAE sees of raw activations `x [B, d_in]`, any float dtype: a new tensor."""
        x = x.to(device=self.device, dtype=torch.float32)
        return torch.sub(x, self._offset).mul_(self.scale)

    def prepare_target(self, y: Tensor) -> Tensor:
        """What a transcoder is to predict of raw activations `y [B, d_out]`: a new tensor."""
        assert self._target is not None and self._target_offset is not None
        y = y.to(device=self.device, dtype=torch.float32)
        return torch.sub(y, self._target_offset).mul_(self._target[1])

    def step(self, x: Tensor, y: Tensor | None = None) -> None:
        """One optimizer step on raw activations `x [B, d_in]`, any float dtype; of a transcoder,
        with `y [B, d_out]`, the activations of the other site.

        Raises TrainingError, with nothing changed, when the loss or a gradient is not finite (on a
        GPU `verify` and all that calls it raise it, and no later step changes a weight).
        """
        self.step_scaled(self.prepare(x), None if y is None else self.prepare_target(y))

    @torch.no_grad()
    def step_scaled(self, z: Tensor, t: Tensor | None = None) -> None:
        """`step` on what `prepare` made and, of a transcoder, `prepare_target`. They are not
        written to, so SAEs may share them."""
        assert (t is None) == (self._target is None)
        assert z.dim() == 2 and z.shape[1] == self.d_in and self.steps < self.total
        if self.steps == 0:
            self._begin(z, t)
        outcome = self._gradients(z, t)
        norm = add_up(outcome.grads, self.mesh)
        seen = outcome.loss
        if t is not None:  # of a row that is not finite no latent may fire, and t tells nothing
            seen = seen + z.sum() * 0.0
        broken = self.faults.check(self.steps, seen, norm)
        self._rate = learning_rate(self.spec, self.d_in, self.steps, self.total)
        rates = {n: self._rate * self.form.lr_scales.get(n, 1.0) for n in outcome.grads}
        self._adam.step(outcome.grads, rates, self.steps, self._shrink(norm), broken)
        self._settle(outcome, Moment(self.steps, self.total, broken))
        if self._average is not None:
            self._average.update(self.form.params, self.steps, broken)
        fired = self.mesh.any_data(outcome.fired)
        self.since_fired.add_(z.shape[0]).masked_fill_(fired, 0)
        self.steps += 1
        self.tokens += z.shape[0]
        self._count_silent()
        self._last = _shown(outcome) | {"grad_norm": norm}

    def log(self) -> dict[str, float]:
        """What the last step looked like; empty before the first. Waits for the device.

        loss, fvu and l0 are those of the last batch (fvu = squared error / variance about the
        batch's mean); dead_fraction counts latents silent for `dead_after` tokens.
        """
        self.verify()
        if not self._last:
            return {}
        dead = (self.since_fired >= self.dead_after).float().mean()
        dead = self.mesh.sum_latent(dead) / self.mesh.latent
        values = {**self._last, "dead_fraction": dead}
        return {n: float(v) for n, v in values.items()} | {"lr": self._rate}

    @property
    def fault(self) -> int | None:
        """The first step that met a loss or gradient that is not finite, if one did. Waits for the
        device; on a CPU that step has raised already and changed nothing, so there is none."""
        return self.faults.first

    def verify(self) -> None:
        """Raise TrainingError if there is a `fault`."""
        self.faults.verify()

    @property
    def spec_arch(self) -> str:
        """The architecture as the spec names it; the stored SAE's may be another."""
        return str(getattr(self.spec, "arch", self.form.arch))

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on: flat named tensors, and plain JSON values.

        The tensors are those in use, so write them out before the next step. Of a mesh, whole
        tensors come to the process that leads and none to the others. Raises TrainingError as
        `verify` does.
        """
        self.verify()
        whole = {n: self.mesh.whole(n, t.detach()) for n, t in self._tensors().items()}
        scalars = {"arch": self.spec_arch, "step": self.steps, "tokens": self.tokens}
        return {n: t for n, t in whole.items() if t is not None}, scalars

    def broken(self) -> str | None:
        """The name of the first weight or moment that is not finite, the same in all processes."""
        for name, tensor in self._tensors().items():
            if name.startswith(("param.", "adam.")):
                bad = not bool(torch.isfinite(tensor).all())
                if self.mesh.any(bad):
                    return name
        return None

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
        """Go on from a state. Raises StoreError when it belongs to another kind of run."""
        own = self._tensors()
        kinds = {n: (t.dtype, self.mesh.whole_shape(n, t)) for n, t in own.items()}
        given = {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}
        step, tokens = scalars.get("step"), scalars.get("tokens")
        if not (isinstance(step, int) and isinstance(tokens, int) and 0 <= step <= self.total):
            raise StoreError(
                f"this training state is damaged: it says step {step} of {self.total}",
                hint="delete the stage's work/ folder to train it from the start",
            )
        if given != kinds or scalars.get("arch") != self.spec_arch:
            wrong = sorted(n for n in kinds.keys() | given.keys() if kinds.get(n) != given.get(n))
            raise StoreError(
                f"this training state is not one of a {self.spec_arch} SAE of {self.d_in} x "
                f"{self.spec.width}: arch {scalars.get('arch')}, differs in {wrong}",
                hint="delete the stage's work/ folder to train it from the start",
            )
        for name, tensor in own.items():
            tensor.copy_(self.mesh.own(name, tensors[name]))
        self.steps, self.tokens = step, tokens
        self.faults.forget()
        self._last = {}
        self._silent = None  # counted when a step asks: no other process is waited for here

    @torch.no_grad()
    def calibrate(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Once, after the last step, with raw rows `[B, d_in]` that training never saw.

        Each call of `batches` starts over. Does nothing where `calibrates` is false.
        """
        with self._finished():
            self.form.calibrate(lambda: (self.prepare(x) for x in batches()))

    def finish(self) -> SAE | None:
        """The SAE as it stands, folded to raw activations: float32, on the CPU. With `ema_decay`
        its weights are the average. Of a mesh, the process that leads gets it and the others None.
        Raises TrainingError as `verify` does."""
        self.verify()
        with self._finished():
            form = self.form.scaled()
            named: dict[str, Any] = {each.name: getattr(form, each.name) for each in fields(form)}
            for name, value in named.items():
                if isinstance(value, Tensor):
                    named[name] = self.mesh.whole(name, value)
            if not self.mesh.leads:
                return None
            return fold(Scaled(**named), self.mean, self.scale, target=self._target)

    @contextmanager
    def _finished(self) -> Iterator[None]:
        """With the weights that the finished SAE has."""
        trained = self.form.params
        if self._average is not None:
            self.form.params = self.form.averaged(self._average.weights)
        try:
            yield
        finally:
            self.form.params = trained

    def _settle(self, outcome: Outcome, moment: Moment) -> None:
        """What must hold of the weights is restored; where the moment is broken, nothing moves."""
        small = [*self.form.buffers.values()]
        small += [param for param in self.form.params.values() if param.dim() < 2]
        before = [] if moment.broken is None else [tensor.clone() for tensor in small]
        self.form.settle(outcome, moment)
        if moment.broken is not None:
            for tensor, old in zip(small, before, strict=True):
                tensor.copy_(torch.where(moment.broken > 0, old, tensor))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"param.{n}": t for n, t in self.form.params.items()}
        tensors |= {f"buffer.{n}": t for n, t in self.form.buffers.items()}
        tensors |= {f"adam.{n}": t for n, t in self._adam.state.items()}
        if self._average is not None:
            tensors |= {f"average.{n}": t for n, t in self._average.weights.items()}
        return tensors | {"since_fired": self.since_fired}

    def _count_silent(self) -> None:
        known = self.tokens >= self.dead_after
        self._silent = None
        if known:
            own = (self.since_fired >= self.dead_after).sum()
            every = own if self.mesh.latent == 1 else self.mesh.sum_latent(own.clone())
            self._silent = Later(torch.stack([own, every]))

    def _dead(self) -> Tensor | None:
        """This process's dead latents; None where no process has any."""
        if self._silent is None:
            self._count_silent()
        count, every = (0, 0) if self._silent is None else map(int, self._silent.read())
        if every == 0:
            return None
        dead = self.since_fired >= self.dead_after
        return torch.nonzero_static(dead, size=count).flatten()

    def _begin(self, z: Tensor, t: Tensor | None) -> None:
        if not all(bool(seen.isfinite().all()) for seen in (z, t) if seen is not None):
            raise self.faults.told(0)
        params = self.form.params
        if self.spec.decoder_init == "active_subspace":  # a transcoder's decoder is elsewhere
            into_active_subspace(params if t is None else {"enc": params["enc"]}, z)
        if t is None:
            self.form.begin(z)
        else:
            assert isinstance(self.form, Transcoding)
            self.form.begin(z, t)

    def _gradients(self, z: Tensor, t: Tensor | None) -> Outcome:
        moment, rows = Moment(self.steps, self.total), self.mesh.rows(z)
        if t is None:
            return self.form.gradients(rows, moment, self._dead())
        assert isinstance(self.form, Transcoding)
        return self.form.gradients(rows, moment, self._dead(), self.mesh.rows(t))

    def _shrink(self, norm: Tensor) -> Tensor | None:
        """What to divide gradients by so that their norm is at most `grad_clip`."""
        if self.spec.grad_clip is None:
            return None
        factor = norm.float() / self.spec.grad_clip
        if not self.faults.deferred:
            return factor if float(factor) > 1.0 else None
        return factor.clamp_min(1.0)


def _shown(outcome: Outcome) -> dict[str, Tensor]:
    """The scalars of an outcome, without its gradients, which would live on until the next."""
    return {
        "loss": outcome.loss,
        "fvu": outcome.squared_error / outcome.variance,
        "l0": outcome.l0,
        **outcome.extra,
    }
