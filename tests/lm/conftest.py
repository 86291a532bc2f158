"""Small random models of several builds, and a word tokenizer, for the tests of `lm`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Glm4Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

_HF = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_OLD = {k: v for k, v in _HF.items() if k not in ("head_dim", "num_key_value_heads")}
_CONFIGS = {
    "qwen3": lambda: Qwen3Config(**_HF),
    "llama": lambda: LlamaConfig(**(_HF | {"head_dim": 8})),
    "gpt2": lambda: GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "neox": lambda: GPTNeoXConfig(**_OLD, use_parallel_residual=False),
    "neox-parallel": lambda: GPTNeoXConfig(**_OLD, use_parallel_residual=True),
    "gemma2": lambda: Gemma2Config(**_HF),
    "olmo2": lambda: Olmo2Config(**{k: v for k, v in _HF.items() if k != "head_dim"}),
    "glm4": lambda: Glm4Config(**_HF),
    "phi": lambda: PhiConfig(**_OLD),
    "bloom": lambda: BloomConfig(vocab_size=97, hidden_size=32, n_layer=3, n_head=4),
}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'alien' %}{{ raise_exception('no aliens') }}{% endif %}"
    "<s> {{ m.role }} {{ m.content }} <e> {% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}nothink{% endif %}"
)


@cache
def _built(kind: str, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(sum(map(ord, kind)))
    kernel = "eager" if kind in ("gemma2", "bloom") else "sdpa"
    model = AutoModelForCausalLM.from_config(_CONFIGS[kind](), attn_implementation=kernel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are faster without a thread pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def build() -> Callable[..., PreTrainedModel]:
    """build(kind, dtype=float32): a random model whose every parameter matters; don't change it."""

    def make(kind: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        return _built(kind, dtype)

    return make


@pytest.fixture
def blocks() -> torch.Tensor:
    """Token ids [3, 11]."""
    return torch.randint(1, 97, (3, 11), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """One token per word: w0 ... w499 are ids 10 ... 509; <eos> is 1; with a chat template."""
    names = ["<unk>", "<eos>", "<s>", "<e>", "user", "assistant", "nothink", "system", "a", "b"]
    vocabulary = {word: i for i, word in enumerate(names + [f"w{i}" for i in range(500)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<unk>", "<eos>", "<s>", "<e>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        eos_token="<eos>",
        chat_template=TEMPLATE,
    )
