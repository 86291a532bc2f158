"""What each stage but training needs to know: model, text, capture, evaluation, release.

Every default here is one a newcomer can run: the embedded model, its built-in text.
The documentation under a field feeds the JSON schema (`saectl schema`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sae_cli.spec.base import Count, Execution, Fraction, Frozen, Later, Shape, exactly_one
from sae_cli.spec.text_set import Texts

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "attn_z", "mlp_in", "mlp_out"]
FORWARD: tuple[Site, ...] = (
    "resid_pre", "attn_z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post",
)  # fmt: skip
"""The sites of a layer in the order in which a forward pass meets them."""
Dtype = Literal["float32", "bfloat16", "float16"]
StoredDtype = Literal["float32", "bfloat16", "float16", "int8"]
Control = Literal["pca", "neurons", "random"]
BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
INT8_BLOCK = 64
"""Dimensions that share a scale in int8."""
CHUNK_ROWS = 8192
"""Most rows of a chunk: those of a forward pass, so that small models' rows need no joining."""
SHARD_ROWS = 32_768
"""Most rows of a shard."""
CHUNK_TOKENS = 2**18
"""Packed tokens that are committed at once, about."""
Role = Annotated[str, Field(min_length=1)]
ReleaseFormat = Literal[
    "saelens", "sparsify", "dictionary_learning", "qwen-scope", "gemma-scope", "circuit-tracer"
]


class ModelSpec(Frozen):
    """The language model that is read. One of `hf`, `path`, `builtin`."""

    hf: str | None = None
    """Hugging Face hub id, for example `Qwen/Qwen3-4B`."""
    path: Annotated[str | None, Execution()] = None
    """A local folder in the Hugging Face layout. The key holds its digest, not its path."""
    builtin: Literal["tiny"] | None = None
    """The embedded model that ships with saectl."""
    revision: str | None = None
    """Commit of a hub model. Left out, the first run pins it (`pins.json` of the workspace)."""
    digest: str | None = None
    """sha256 over a local or embedded model's files. Filled in when the sweep is planned."""
    dtype: Dtype = "bfloat16"
    """Number format of the forward pass."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """The attention kernel that transformers is asked for."""
    compile: Annotated[bool, Later()] = False
    """Run the layers through torch.compile. It needs a C++ compiler, takes a while to start, and
    moves last bits, so it enters the key."""
    device_map: Annotated[Literal["auto"] | None, Execution()] = None
    """`auto` spreads a model that is larger than one GPU over all of them, then over memory and
    disk (needs the package accelerate). null puts all of it on one device."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model repository. Off unless you say so."""
    reinit: Annotated[Count | None, Later()] = None
    """A control: the same model, its every weight drawn anew from this seed, each tensor with the
    mean and standard deviation that it had. SAEs on it are shown beside those of the model itself
    where a sweep has both. Of a preset's model, what is left out here is as the preset has it."""

    @property
    def anew(self) -> str:
        """What stands behind the model's name where its weights are drawn anew, `-random0`."""
        return "" if self.reinit is None else f"-random{self.reinit}"

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        exactly_one(self, "hf", "path", "builtin")
        if self.reinit is not None and self.device_map is not None:
            raise PydanticCustomError(
                "reinit_spread",
                "reinit and device_map can't be combined: weights that were put to disk can't be "
                "drawn anew",
                {"field": "reinit"},
            )
        if self.compile and self.device_map is not None:
            raise PydanticCustomError(
                "compile_spread",
                "compile and device_map can't be combined: a spread layer is no one program",
                {"field": "compile"},
            )
        return self


class Source(Texts):
    """One source of documents. One of `builtin`, `path`, `hf`."""

    messages: str | None = None
    """Column that holds chat messages (`[{role, content}, ...]`), rendered by the chat template."""
    weight: PositiveFloat = 1.0
    """Share of the tokens, relative to the other sources."""
    repeat: bool = False
    """Start over when the source runs dry. Off, running dry is an error."""

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        exactly_one(self, "builtin", "path", "hf")
        return self


class MaskSpec(Frozen):
    """Which tokens do not count: decided once, stored, and applied by training and every metric."""

    special: bool = True
    """Drop the tokenizer's special tokens."""
    first_positions: Count = 1
    """Drop this many positions at the start of each context (attention sinks)."""
    outlier_multiple: PositiveFloat | None = 10.0
    """Drop tokens whose norm exceeds this multiple of the site's median. null keeps all."""
    outlier_sample: PositiveInt = 16_384
    """The median is taken over this many training tokens, the first ones."""


class DataSpec(Frozen):
    """Text to token blocks: sources, amounts, packing, and the held-out part."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = (Source(builtin="tiny"),)
    """Where documents come from; several mix by weight."""
    tokens: PositiveInt = 400_000
    """Training tokens, rounded up to whole contexts."""
    heldout_tokens: PositiveInt = 32_768
    """Tokens of held-out documents, for evaluation only, rounded up to whole contexts. Held-out
    documents are never repeated."""
    context: Annotated[int, Field(ge=2)] = 128
    """Tokens in one block."""
    chat_template: bool = False
    """Wrap plain documents in the model's chat template, as one user turn each."""
    train_on: Annotated[tuple[Role, ...] | None, Later(), Field(min_length=1)] = None
    """Chat roles whose messages count, for example `[assistant, user]`; the template's text around
    messages then never counts. null counts all. Plain text that is not wrapped has no roles and
    always counts. Other tokens stay in the context; they are only masked."""
    seed: Count = 0
    """Seed of the train/held-out split. A built-in source gives its stream number seed + 1: the
    embedded model was trained on stream 0."""
    mask: MaskSpec = MaskSpec()
    """Which tokens do not count."""

    @property
    def train_blocks(self) -> int:
        """Blocks of `context` training tokens."""
        return -(-self.tokens // self.context)

    @property
    def heldout_blocks(self) -> int:
        """Blocks of held-out tokens."""
        return -(-self.heldout_tokens // self.context)

    @property
    def chunk_blocks(self) -> int:
        """Blocks of a chunk of packed tokens, where there are so many."""
        return max(1, CHUNK_TOKENS // self.context)

    def chunked_blocks(self, blocks: int) -> int:
        """Blocks that `blocks` of a split take on disk: whole chunks."""
        size = min(self.chunk_blocks, max(1, blocks))
        return -(-blocks // size) * size

    @field_validator("train_on")
    @classmethod
    def _roles_in_one_order(cls, roles: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Their order changes nothing, so it must not change the key."""
        return None if roles is None else tuple(sorted(set(roles)))

    @model_validator(mode="after")
    def _mask_leaves_something(self) -> DataSpec:
        if self.mask.first_positions >= self.context:
            raise PydanticCustomError(
                "mask_drops_all",
                "first_positions {first} drops every token of a context of {context}",
                {"first": self.mask.first_positions, "context": self.context, "field": "mask"},
            )
        return self


Bucket = Annotated[
    str,
    Shape(
        r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._/-]*)?",
        "a bucket and prefix, s3://BUCKET/PREFIX (or gs://, az://): credentials come from the "
        "environment alone",
    ),
]


class CacheSpec(Frozen):
    """Capture: how activations are computed and stored."""

    dtype: StoredDtype = "bfloat16"
    """Number format on disk. `int8` has a bfloat16 scale for each 64 dimensions: about half the
    bytes of bfloat16, for a loss of variance that is measured and recorded."""
    batch_tokens: PositiveInt = 8192
    """Tokens in one forward pass. It moves the last bits of a product, so it enters the key."""
    chunk_bytes: PositiveInt = 4 * 2**20
    """Largest size of a chunk, the unit of reading, rounded down to a power of two contexts (one
    at least; 8192 tokens at most)."""
    shard_bytes: PositiveInt = 128 * 2**20
    """Largest size of a shard file, the unit of writing: a kill loses the shards under way. 32,768
    tokens at most."""
    part_tokens: Annotated[PositiveInt, Execution()] = 2**20
    """Tokens in a part, which one process captures alone. Start the same command on more machines
    or GPUs, and they share the parts; the bytes are the same. It may change from run to run, and
    differ between them."""
    store: Annotated[Bucket | None, Execution()] = None
    """Where activations go: `s3://bucket/prefix` (also gs, az); left out, into the workspace.
    Credentials come from the environment."""

    def row_bytes(self, d_in: int) -> int:
        """Bytes of one stored row, with its byte of the mask."""
        if self.dtype == "int8":
            return d_in + 2 * -(-d_in // INT8_BLOCK) + 1
        return d_in * BYTES[self.dtype] + 1

    def chunk_rows(self, d_in: int, context: int, rows: int) -> int:
        """Rows in a chunk of an array `[rows, d_in]`: a power of two contexts."""
        most = min(self.chunk_bytes // self.row_bytes(d_in), CHUNK_ROWS)
        return _grown(context, most, rows)

    def shard_rows(self, d_in: int, context: int, rows: int) -> int:
        """Rows in a shard of that array: a power of two chunks."""
        most = min(self.shard_bytes // self.row_bytes(d_in), SHARD_ROWS)
        return _grown(self.chunk_rows(d_in, context, rows), most, rows)

    def part_rows(self, d_in: int, context: int, rows: int) -> int:
        """Rows in a part of that array: a power of two shards."""
        return _grown(self.shard_rows(d_in, context, rows), self.part_tokens, rows)


def _grown(unit: int, limit: int, enough: int) -> int:
    """`unit` doubled while it stays within `limit` and does not reach `enough`."""
    size = unit
    while 2 * size <= limit and size < enough:
        size *= 2
    return size


class EvalSpec(Frozen):
    """Evaluation on held-out tokens, under the stored mask."""

    tokens: PositiveInt | None = None
    """Held-out tokens to use; left out, all that the data holds."""
    batch_tokens: PositiveInt = 4096
    """Tokens in one forward pass."""
    splice: bool = True
    """Measure CE and KL with the reconstruction put back into the model."""
    dense_threshold: Fraction = 0.1
    """A latent that fires on more than this share of tokens counts as dense."""
    controls: Annotated[tuple[Control, ...], Later()] = ()
    """What is judged beside each SAE at its L0: `pca` (principal directions of training
    activations), `neurons` (the site's own coordinates), `random` (as many random directions as
    the SAE has latents). They add a pass over the held-out text and enter the key."""
    contexts: Annotated[tuple[PositiveInt, ...], Later()] = ()
    """Longer contexts to judge on besides, multiples of `data.context`, for example `[512, 1024]`:
    held-out blocks are joined. Each adds a pass over the held-out text and slices of its own, also
    of the positions that training never saw."""
    chat: Annotated[bool, Later()] = False
    """Slices of the tokens of chat documents, by role where that can be told, and of the others."""

    @field_validator("contexts")
    @classmethod
    def _contexts_in_one_order(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Their order changes nothing, so it must not change the key."""
        return tuple(sorted(set(lengths)))

    @field_validator("controls")
    @classmethod
    def _controls_in_one_order(cls, names: tuple[Control, ...]) -> tuple[Control, ...]:
        """Their order changes nothing, so it must not change the key."""
        return tuple(sorted(set(names)))


class ReleaseSpec(Frozen):
    """The folder that is handed out."""

    title: str | None = None
    """Title of the model card; left out, the sweep's name."""
    description: str | None = None
    """A paragraph for the card."""
    license: str | None = None
    """SPDX id; left out, the card says `unknown`."""
    authors: tuple[str, ...] = ()
    """Who trained the suite."""
    dtype: Dtype = "float32"
    """Number format of the released weights."""
    formats: Annotated[tuple[ReleaseFormat, ...], Later()] = ()
    """Other projects' files to write besides, under `formats/`, each read back and compared with
    the SAE. Folders that SAELens loads are always written. An SAE that a format can't hold is named
    with the reason in card and manifest; a format that can hold none fails the release."""

    @field_validator("formats")
    @classmethod
    def _formats_in_one_order(cls, formats: tuple[ReleaseFormat, ...]) -> tuple[ReleaseFormat, ...]:
        """Their order changes nothing, and `saelens` is always there: no key may follow either."""
        return tuple(sorted(set(formats) - {"saelens"}))


class WandbSpec(Frozen):
    """Weights & Biases logging; without this block wandb is never imported."""

    project: str
    """Project name."""
    entity: str | None = None
    """User or team."""
    group: str | None = None
    """What the runs of a sweep stand under; left out, the sweep's name."""
    mode: Literal["online", "offline"] = "online"
    """`offline` needs neither network nor account."""
