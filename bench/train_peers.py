"""SAEs in training, ours and three peers', each by its own trainer. For bench/train_step.py.

- SAELens (decoderesearch/SAELens): `SAETrainer.step`, the seam that its `fit` calls.
- sparsify (EleutherAI/sparsify, on PyPI eai-sparsify): `Trainer.fit` itself, in a thread that waits
  for each batch, on a module that hands the batch through.
- dictionary_learning (saprmarks/dictionary_learning): `update` of its trainers.

`make bench-peers` makes their environment. Defaults are theirs (Adam for sparsify, whose default
SignSGD has another name here); only warm-ups are shortened to a twentieth of a run that is shorter
than they are made for, and penalties get the target L0 where there is one. All start from their own
initial weights. A peer that is not installed, or lacks the architecture, raises `Missing`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import queue
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from sae_cli.errors import TrainingError
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import Train

LONG = 10_000_000
"""Tokens of silence after which a latent is dead: nobody's in a short run."""


class Missing(Exception):
    """Why there is no such contender."""


@dataclass(frozen=True)
class Setup:
    """What all train: one SAE on centred rows whose mean square is 1 per dimension."""

    arch: str
    d: int
    d_sae: int
    k: int
    """Active latents per token; for jumprelu the target."""
    batch: int
    steps: int
    lr: float | None = None
    """Everyone's learning rate; left out, each has its own."""
    device: str = "cpu"

    def warmup(self, usual: int) -> int:
        """A warm-up of `usual` steps, in a run of this length."""
        return min(usual, self.steps // 20)


class Contender(Protocol):
    """An SAE in training."""

    def step(self, x: Tensor) -> None:
        """One step on rows `x [batch, d]`, up to new weights."""

    def reconstruct(self, x: Tensor, spare: Tensor) -> tuple[Tensor, float]:
        """Reconstruction of unseen rows and their mean number of active latents. `spare` are other
        unseen rows, for those who calibrate; peers' BatchTopK selects over `x` instead."""


class Ours:
    """`sae.trainer.Trainer`, with fields of the training spec."""

    def __init__(self, setup: Setup, **fields: Any) -> None:
        sparsity = {"l0": setup.k} if setup.arch == "jumprelu" else {"k": setup.k}
        told = {"arch": setup.arch, "width": setup.d_sae, "lr": setup.lr, "dead_after": LONG}
        tokens = {"batch_size": setup.batch, "num_tokens": setup.batch * setup.steps}
        self._spec = TypeAdapter(Train).validate_python(told | tokens | sparsity | fields)
        self._setup = setup
        try:
            self._trainer = Trainer(
                self._spec, setup.d, torch.zeros(setup.d), 1.0, setup.device, setup.steps
            )
        except TrainingError as error:
            raise Missing(str(error)) from error

    def step(self, x: Tensor) -> None:
        self._trainer.step(x)

    def converge(self, x: Tensor) -> None:
        """JumpReLU: one threshold for all latents, with which `x` has the target L0. A step takes
        as long as late in training then. Nothing changes the work of other architectures."""
        p = self._trainer.form.params
        if self._setup.arch != "jumprelu":
            return
        pre = torch.addmm(p["b_enc"], x, p["enc"].T)
        p["threshold"].fill_(pre.flatten().topk(self._setup.k * len(x)).values[-1])

    def reconstruct(self, x: Tensor, spare: Tensor) -> tuple[Tensor, float]:
        if self._trainer.calibrates:
            self._trainer.calibrate(lambda: iter([spare]))
        sae = self._trainer.finish()
        f = sae.encode(x.cpu())
        return sae.decode(f).to(x.device), _l0(f)


NAMES = {
    "topk": ("TopK", "top_k", "TopKTrainer"),
    "batchtopk": ("BatchTopK", "batch_top_k", "BatchTopKTrainer"),
    "matryoshka": ("MatryoshkaBatchTopK", "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
    "jumprelu": ("JumpReLU", "jumprelu", "JumpReluTrainer"),
}
"""Architecture -> SAELens' classes begin with; dictionary_learning's module, and its trainer."""
GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
"""Shares of the width in matryoshka's groups: our default, for everyone."""


def names(setup: Setup) -> tuple[str, str, str]:
    """What peers call the architecture. Raises Missing where they have none."""
    if setup.arch not in NAMES:
        raise Missing(f"there is no {setup.arch} to compare with")
    return NAMES[setup.arch]


class SAELens:
    """SAELens' trainer; `fields` are of the SAE's training configuration."""

    def __init__(self, setup: Setup, *, autocast: bool = False, **fields: Any) -> None:
        saes, config, training = (
            _imported("sae_lens", module)
            for module in ("sae_lens.saes", "sae_lens.config", "sae_lens.training.sae_trainer")
        )
        name, _, _ = names(setup)
        if setup.arch == "jumprelu":
            fields |= {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": setup.k}
            fields |= {"l0_warm_up_steps": setup.steps // 10}
        else:
            fields |= {"k": setup.k}
        if setup.arch == "matryoshka":
            ends = itertools.accumulate(GROUPS)
            fields |= {"matryoshka_widths": [round(setup.d_sae * end) for end in ends]}
        cfg = getattr(saes, f"{name}TrainingSAEConfig")(
            d_in=setup.d, d_sae=setup.d_sae, device=setup.device, **fields
        )
        torch.manual_seed(0)
        self._sae = getattr(saes, f"{name}TrainingSAE")(cfg)
        lr = setup.lr or 3e-4  # its default
        samples = setup.batch * setup.steps
        self._trainer = training.SAETrainer(
            config.SAETrainerConfig(
                total_training_samples=samples, train_batch_size_samples=setup.batch,
                device=setup.device, autocast=autocast, lr=lr, lr_end=lr / 10,
            ),
            self._sae, iter(()),
        )  # fmt: skip

    def step(self, x: Tensor) -> None:
        self._trainer.step(x)
        self._trainer.n_training_steps += 1

    @torch.no_grad()
    def reconstruct(self, x: Tensor, spare: Tensor) -> tuple[Tensor, float]:
        f = self._sae.encode_with_hidden_pre(x)[0]
        x_hat = self._sae.decode(f)
        return x_hat, _l0(f.to_dense())


class DictionaryLearning:
    """dictionary_learning's trainers."""

    def __init__(self, setup: Setup) -> None:
        _, module, trainer = names(setup)
        found = _imported("dictionary_learning", f"dictionary_learning.trainers.{module}")
        told: dict[str, Any] = {} if setup.lr is None else {"lr": setup.lr}
        if setup.arch == "jumprelu":
            told |= {"target_l0": setup.k, "sparsity_warmup_steps": setup.warmup(2000)}
        else:
            told |= {"k": setup.k}
        if setup.arch == "matryoshka":
            told |= {"group_fractions": list(GROUPS)}
        self._trainer = getattr(found, trainer)(
            steps=setup.steps, activation_dim=setup.d, dict_size=setup.d_sae, layer=0,
            lm_name="synthetic", warmup_steps=setup.warmup(1000), seed=0,
            device=setup.device, **told,
        )  # fmt: skip
        self._selects = setup.arch != "jumprelu"
        self._steps = 0

    def step(self, x: Tensor) -> None:
        self._trainer.update(self._steps, x)
        self._steps += 1

    @torch.no_grad()
    def reconstruct(self, x: Tensor, spare: Tensor) -> tuple[Tensor, float]:
        ae = self._trainer.ae
        f = ae.encode(x, use_threshold=False) if self._selects else ae.encode(x)
        return ae.decode(f), _l0(f)


class Sparsify:
    """sparsify's trainer: its `fit` in a thread, one turn of its loop for each step."""

    def __init__(self, setup: Setup, optimizer: str = "adam") -> None:
        sparsify = _imported("sparsify", "sparsify")
        if setup.arch != "topk":
            raise Missing(f"there is no {setup.arch} to compare with")
        self._batches: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self._asked = threading.Semaphore(0)
        self._error: BaseException | None = None
        self._feed = _Feed(setup, self._next)
        config = sparsify.TrainConfig(
            sparsify.SaeConfig(num_latents=setup.d_sae, k=setup.k), batch_size=1,
            optimizer=optimizer, lr=setup.lr, lr_warmup_steps=setup.warmup(1000),
            hookpoints=["site"], save_every=2**62, log_to_wandb=False,
        )  # fmt: skip
        said = io.StringIO()  # its progress bar, too, for as long as it runs
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            self._trainer = sparsify.Trainer(config, self._feed.rows, self._feed)
            threading.Thread(target=self._fit, args=(torch.get_num_threads(),), daemon=True).start()
            self._wait()

    def step(self, x: Tensor) -> None:
        torch.set_float32_matmul_precision("high")  # what `fit` sets, for its own steps alone
        self._batches.put(x)
        self._wait()

    def _wait(self) -> None:
        self._asked.acquire()
        torch.set_float32_matmul_precision("highest")
        if self._error is not None:
            raise self._error

    def _next(self) -> Tensor:
        """The loop asks for its next batch: all that belongs to the last one is done."""
        self._asked.release()
        return self._batches.get()

    def _fit(self, threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            self._trainer.fit()
        except BaseException as error:  # noqa: BLE001  raised again where the bench waits
            self._error = error
            self._asked.release()

    @torch.no_grad()
    def reconstruct(self, x: Tensor, spare: Tensor) -> tuple[Tensor, float]:
        for optimizer in self._trainer.optimizers:
            if hasattr(optimizer, "eval"):
                optimizer.eval()  # schedule-free: the averaged weights
        out = self._trainer.saes["site"](x)
        return out.sae_out, _l0(out.latent_acts)


class _Feed(nn.Module):
    """What sparsify takes for a language model: a module whose site gives out the next batch."""

    def __init__(self, setup: Setup, following: Callable[[], Tensor]) -> None:
        super().__init__()
        self.site = nn.Identity()
        self.device = torch.device(setup.device)
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
        self.batch = torch.zeros(1, setup.d, device=self.device)
        self.rows = _Rows(self, setup.steps, following)

    @property
    def base_model(self) -> _Feed:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.site(self.batch[None])


class _Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """What sparsify takes for a tokenized dataset: as many tokens as the batch has rows. It has one
    batch more than are trained, since after the last one `fit` would save a checkpoint."""

    def __init__(self, feed: _Feed, steps: int, following: Callable[[], Tensor]) -> None:
        self._feed, self._steps, self._following = [feed], steps, following

    def __len__(self) -> int:
        return self._steps + 1

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        (feed,) = self._feed
        feed.batch = self._following()
        return {"input_ids": torch.zeros(len(feed.batch), dtype=torch.long)}


def contenders() -> dict[str, Callable[[Setup], Contender]]:
    """All, by name. The first is what the others are compared with."""
    return {
        "ours": Ours,
        "ours-bf16": _ours_bf16,
        "saelens": SAELens,
        "saelens-sparse": _saelens_sparse,
        "saelens-autocast": lambda setup: SAELens(setup, autocast=True),
        "dictionary_learning": DictionaryLearning,
        "sparsify": Sparsify,
        "sparsify-signum": lambda setup: Sparsify(setup, "signum"),
    }


def _ours_bf16(setup: Setup) -> Contender:
    if setup.arch != "topk":
        raise Missing(f"there is no {setup.arch} to compare with")
    return Ours(setup, precision="bfloat16")


def _saelens_sparse(setup: Setup) -> Contender:
    if setup.arch != "topk":
        raise Missing(f"there is no {setup.arch} to compare with")
    return SAELens(setup, use_sparse_activations=True, rescale_acts_by_decoder_norm=False)


def _imported(package: str, module: str) -> types.ModuleType:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{package} is not installed here: make bench-peers") from error


def _l0(f: Tensor) -> float:
    return float((f > 0).sum()) / len(f)


def drawn(d: int, rows: int, *, active: int = 32, seed: int = 0) -> Iterator[Tensor]:
    """Batches `[rows, d]` without end: sparse mixtures of 4 d known directions, centred, of mean
    square 1 per dimension. `seed` is that of the rows; the directions are always the same.

    A direction's frequency falls with the square root of its rank, `active` of them are in a row on
    average, and a tenth of the variance is noise.
    """
    fixed, made = (torch.Generator().manual_seed(n) for n in (0, 1 + seed))
    directions = nn.functional.normalize(torch.randn(4 * d, d, generator=fixed), dim=1)
    often = 1 / torch.arange(1, 4 * d + 1).sqrt()
    often = (often * (active / often.sum())).clamp_max(0.5)
    # A weight is 1 + an exponential draw: mean 2, mean square 5.
    mean = (2 * often) @ directions
    variance = float((5 * often - 4 * often.square()).sum())
    scale, noise = (0.9 * d / variance) ** 0.5, 0.1**0.5
    while True:
        weights = torch.empty(rows, 4 * d).exponential_(generator=made).add_(1.0)
        weights *= torch.rand(rows, 4 * d, generator=made) < often
        yield (weights @ directions - mean) * scale + noise * torch.randn(rows, d, generator=made)
