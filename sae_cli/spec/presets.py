"""Models that have a name of their own, with the sizes that a plan needs before any download.

The sizes are those of each model's published config.json. `shipped` finds a sweep that comes with
saectl, in a checkout as in an installed package.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_cli.spec.stages import ModelSpec, Site

GATED_MLPS = frozenset(
    ("gemma", "gemma2", "gemma3_text", "glm4", "llama", "mistral", "olmo2", "phi3", "qwen2",
     "qwen3", "smollm3")
)  # fmt: skip
"""`model_type`s whose every layer has an MLP of three matrices: gate, up, down."""
PLAIN_MLPS = frozenset(("gpt2", "gpt_neox", "phi"))
"""Those with two matrices, and as many heads of keys and values as of queries."""


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a transformer, known without loading it. None: not known, and not guessed."""

    n_layers: int
    d_model: int
    n_heads: int
    head_dim: int
    intermediate: int | None = None
    """Inner dimension of the MLP."""
    n_kv_heads: int | None = None
    """Heads of keys and values."""
    gated: bool | None = None
    """Whether the MLP has three matrices rather than two."""
    vocab: int | None = None
    """Entries of the vocabulary, as many as there are logits."""

    def d_in(self, site: Site) -> int:
        """Dimension of the activations at `site`."""
        return self.n_heads * self.head_dim if site == "attn_z" else self.d_model

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelFacts | None:
        """Read a Hugging Face config.json; None if it names its sizes in no way known here."""
        c = config.get("text_config") or config

        def first(*names: str) -> int | None:
            return next((int(c[n]) for n in names if c.get(n)), None)

        layers = first("num_hidden_layers", "n_layer", "num_layers")
        width = first("hidden_size", "n_embd", "d_model")
        heads = first("num_attention_heads", "n_head", "num_heads")
        if layers is None or width is None or heads is None:
            return None
        kind = c.get("model_type")
        gated = True if kind in GATED_MLPS else False if kind in PLAIN_MLPS else None
        inner, kv_heads = first("intermediate_size", "n_inner"), first("num_key_value_heads")
        if gated is False:
            inner, kv_heads = inner or 4 * width, heads
        return cls(
            layers, width, heads, first("head_dim") or width // heads,
            inner, kv_heads, gated, first("vocab_size"),
        )  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """A named model and the shipped sweep that `saectl cache --model NAME` stands for."""

    model: ModelSpec
    facts: ModelFacts
    sweep: str


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        ModelSpec(builtin="tiny", dtype="float32"),
        ModelFacts(4, 64, 4, 32, 192, 2, True, 744),
        "tiny.yaml",
    ),
    "qwen3-1.7b": Preset(
        ModelSpec(hf="Qwen/Qwen3-1.7B"),
        ModelFacts(28, 2048, 16, 128, 6144, 8, True, 151_936),
        "qwen3-1.7b.yaml",
    ),
    "qwen3-4b": Preset(
        ModelSpec(hf="Qwen/Qwen3-4B"),
        ModelFacts(36, 2560, 32, 128, 9728, 8, True, 151_936),
        "qwen3-4b.yaml",
    ),
    "qwen3-8b": Preset(
        ModelSpec(hf="Qwen/Qwen3-8B"),
        ModelFacts(36, 4096, 32, 128, 12_288, 8, True, 151_936),
        "qwen3-8b.yaml",
    ),
}


def shipped_folder() -> Path:
    """The folder of sweeps that ship: inside an installed package, or `sweeps/` of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "sweeps"
    return inside if inside.is_dir() else package.parent / "sweeps"


def shipped(name: str) -> Path | None:
    """The shipped sweep called `name` (`tiny.yaml`, `sweeps/tiny.yaml` or `tiny`), or None."""
    stem = Path(name).name.removesuffix(".yaml") + ".yaml"
    found = shipped_folder() / stem
    return found if found.is_file() else None
