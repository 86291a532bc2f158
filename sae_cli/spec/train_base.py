"""What the training of every architecture shares: size, amount, optimizer, schedule, input.

Defaults are meant to work untouched on any site of any model; what only one architecture knows
stands in `train`. Fields that came after the first keys carry `Later`, so that old keys live.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from sae_cli.spec.base import Count, Decay, Execution, Fraction, Frozen, Later, exactly_one

Kernels = Literal["auto", "torch", "triton"]


class Parallel(Frozen):
    """How many processes train one SAE together: `data` times `latent` of them."""

    data: PositiveInt = 1
    """Parts that each batch is cut into."""
    latent: PositiveInt = 1
    """Shards that the latents are cut into, each with its encoder, decoder and moments."""

    @property
    def processes(self) -> int:
        """How many take part."""
        return self.data * self.latent


class TrainBase(Frozen):
    """What every architecture shares."""

    spreads: ClassVar[bool] = False
    """Whether `parallel` may ask for more than one process."""

    width: PositiveInt | None = None
    """Number of latents (d_sae). Give this or `expansion`."""
    expansion: PositiveInt | None = None
    """Number of latents as a multiple of the input dimension."""
    num_tokens: PositiveInt = 2_000_000
    """Tokens to train on. More than the store holds means further epochs, each newly shuffled."""
    batch_size: Annotated[int, Field(ge=2)] = 2048
    """Tokens in one step."""
    lr: PositiveFloat | None = None
    """Learning rate; left out, the larger of 2e-4 / sqrt(width / 16384) (Gao et al. 2024, with
    their followers' constant) and min(0.1, 64 / steps) / sqrt(d_in), which short runs need."""
    lr_warmup: Fraction = 0.02
    """Share of the steps with linear warm-up."""
    lr_schedule: Annotated[Literal["constant", "linear", "cosine"], Later()] = "constant"
    """The rate after the warm-up: `constant` until the last `lr_decay` of the steps, or falling to
    zero over all of them, in a line or along half a cosine."""
    lr_decay: Fraction = 0.2
    """Share of the steps, the last ones, with linear decay to zero. It belongs to `lr_schedule:
    constant`; the other schedules are a decay of their own."""
    beta1: Decay = 0.9
    """Adam's first-moment decay."""
    beta2: Decay = 0.999
    """Adam's second-moment decay."""
    moments_dtype: Annotated[Literal["float32", "bfloat16", "int8"], Later()] = "float32"
    """Number format of Adam's two moments. bfloat16 halves their memory; int8, codes with
    a scale for each 256 weights of a latent, takes a quarter of it, and a longer step."""
    grad_clip: PositiveFloat | None = 1.0
    """Largest gradient norm; null turns clipping off."""
    ema_decay: Annotated[float | None, Later(), Field(gt=0.0, lt=1.0)] = None
    """The finished SAE is an exponential moving average of the weights, with this decay at each
    step. null takes the last step's weights."""
    center: bool = True
    """Subtract the stored mean activation. Folded into the biases at the end."""
    normalize: bool = True
    """Scale activations to mean square 1 per dimension. Folded into the weights at the end."""
    decoder_init: Annotated[Literal["random", "active_subspace"], Later()] = "random"
    """Directions that decoder and encoder rows start from: any, or those in which the first batch
    varies. The outputs of attention fill only part of their space, and latents that start outside
    of it die: on the site attn_out `active_subspace` is the default."""
    dead_after: PositiveInt | None = None
    """Tokens of silence after which a latent is dead; default min(10M, num_tokens / 20)."""
    shuffle_tokens: PositiveInt = 262_144
    """Tokens in the pool that a batch is drawn from."""
    seed: Count = 0
    """Seed of the weights and, unless `data_seed` is given, of the data order."""
    data_seed: Annotated[Count | None, Later()] = None
    """Seed of the data order; left out, `seed`. SAEs of one grid with the same `data_seed` and
    `shuffle_tokens` share each read, whatever their `seed`."""
    checkpoint_every: Annotated[PositiveInt, Execution()] = 500
    """Steps between checkpoints."""
    log_every: Annotated[PositiveInt, Execution()] = 50
    """Steps between lines of metrics.jsonl."""
    parallel: Annotated[Parallel, Execution()] = Parallel()
    """Processes that train this SAE together, one a GPU where there are any. The result is that of
    one process within the rounding of float32, so it is no part of the key; the SAE's record says
    it. It may change from run to run: a checkpoint holds whole tensors. For topk, batchtopk,
    matryoshka, jumprelu and relu_l1."""
    kernels: Annotated[Kernels, Execution()] = "auto"
    """What makes the selections, the products over active latents and Adam's pass: `triton`, our
    kernels, on a CUDA device; `torch`, anywhere; `auto`, kernels where they can run. The result is
    the same within the rounding of float32, so it is no part of the key; the SAE's record says
    which it was. It may change from run to run."""

    @property
    def order_seed(self) -> int:
        """Seed of the order in which batches are drawn."""
        return self.seed if self.data_seed is None else self.data_seed

    @model_validator(mode="after")
    def _one_width(self) -> TrainBase:
        exactly_one(self, "width", "expansion")
        if self.width is not None and self.width % 8:
            low = self.width // 8 * 8
            near = f"the nearest are {low} and {low + 8}" if low else "the smallest is 8"
            raise PydanticCustomError(
                "width_not_divisible",
                "width {width} is not a multiple of 8 ({near})",
                {"width": self.width, "near": near, "field": "width"},
            )
        return self

    @model_validator(mode="after")
    def _it_can_be_cut(self) -> TrainBase:
        data, latent = self.parallel.data, self.parallel.latent
        if self.parallel.processes > 1 and not self.spreads:
            raise PydanticCustomError(
                "parallel_arch",
                "this architecture trains in one process; parallel is for topk, batchtopk, "
                "matryoshka, jumprelu and relu_l1",
                {"field": "parallel"},
            )
        if self.batch_size % data:
            raise PydanticCustomError(
                "parallel_data",
                "batch_size {size} can't be cut into {data} equal parts",
                {"size": self.batch_size, "data": data, "field": "parallel"},
            )
        if self.width is not None and self.width % (8 * latent):
            raise PydanticCustomError(
                "parallel_latent",
                "width {width} can't be cut into {latent} equal shards of a multiple of 8 latents",
                {"width": self.width, "latent": latent, "field": "parallel"},
            )
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> TrainBase:
        given = "lr_decay" in self.model_fields_set
        if self.lr_schedule != "constant" and given and self.lr_decay > 0:
            raise PydanticCustomError(
                "two_decays",
                "lr_schedule {schedule} falls to zero by itself: leave lr_decay out",
                {"schedule": self.lr_schedule, "field": "lr_decay"},
            )
        if self.lr_schedule == "constant" and self.lr_warmup + self.lr_decay > 1.0:
            raise PydanticCustomError(
                "schedule",
                "lr_warmup {warmup} + lr_decay {decay} is over 1, the whole of the steps",
                {
                    "warmup": self.lr_warmup,
                    "decay": self.lr_decay,
                    "field": "lr_decay" if given else "lr_warmup",
                },
            )
        return self
