"""What tests of several folders share: the command line in this process, golden files, and small
random models of several builds with a word tokenizer.

Golden files are what users read and what keys are made of. `pytest --update-golden` writes them
anew; read the difference before you commit it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many processes as cores: a thread each

pytest_plugins = ["s3server", "realcommand", "chromium", "slurmserver", "suiterun", "hubserver"]

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
_BLOOM = {"vocab_size": 97, "hidden_size": 32, "n_layer": 3, "n_head": 4}
_GPT2 = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", _HF),
    "llama": ("LlamaConfig", _HF | {"head_dim": 8}),
    "gpt2": ("GPT2Config", _GPT2),
    "neox": ("GPTNeoXConfig", _OLD | {"use_parallel_residual": False}),
    "neox-parallel": ("GPTNeoXConfig", _OLD | {"use_parallel_residual": True}),
    "gemma2": ("Gemma2Config", _HF),
    "olmo2": ("Olmo2Config", {k: v for k, v in _HF.items() if k != "head_dim"}),
    "glm4": ("Glm4Config", _HF),
    "phi": ("PhiConfig", _OLD),
    "bloom": ("BloomConfig", _BLOOM),
}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'alien' %}{{ raise_exception('no aliens') }}{% endif %}"
    "<s> {{ m.role }} {{ m.content }} <e> {% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}nothink{% endif %}"
)


@cache
def _built(kind: str, dtype: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(sum(map(ord, kind)))
    kernel = "eager" if kind in ("gemma2", "bloom") else "sdpa"
    name, fields = _CONFIGS[kind]
    config = getattr(transformers, name)(**fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(getattr(torch, dtype)).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """build(kind, dtype=float32): a random model whose every parameter matters; don't change it."""

    def make(kind: str, dtype: Any = "float32") -> Any:
        return _built(kind, str(dtype).removeprefix("torch."))

    return make


@pytest.fixture(scope="session")
def words() -> Any:
    """One token per word: w0 ... w499 are ids 10 ... 509; <eos> is 1; with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

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


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's background job has it so
        signal.signal(signal.SIGINT, signal.default_int_handler)  # and its children would too
    settings.register_profile("seeded", derandomize=True, deadline=None)
    settings.load_profile("seeded")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files anew instead"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what tests recorded as worth telling: how many kills a capture survived, say."""
    for report in terminalreporter.getreports(""):
        for name, told in report.user_properties:
            if name == "told":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {told}")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(file, text)`: the text is what the file holds, to the byte."""

    def same(file: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            file.write_text(text, encoding="utf-8")
        assert file.is_file(), f"no {file.name}: run pytest --update-golden and read what it writes"
        assert text == file.read_text(encoding="utf-8")

    return same


@pytest.fixture(scope="session")
def processes() -> Iterator[Callable[..., list[Any]]]:
    """`processes(data, latent, folder, job, **order)`: what each rank of a mesh made of a job of
    `parallel_driver`, rank 0's first."""
    driver = Path(__file__).with_name("parallel_driver.py")
    with subprocess.Popen(
        [sys.executable, str(driver)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        pipe, back = process.stdin, process.stdout
        assert pipe is not None and back is not None

        def give(data: int, latent: int, folder: Path, job: str, **order: Any) -> list[Any]:
            mesh = {"data": data, "latent": latent, "folder": str(folder), "job": job}
            print(json.dumps({**mesh, **order}), file=pipe, flush=True)
            answers: list[Any] = json.loads(back.readline())
            return answers

        yield give
        pipe.close()


@pytest.fixture
def clean_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without model caches and workspace settings; returns its HF_HOME."""
    for name in ("SAECTL_STORE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home" / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "home" / "hf"


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def saectl(capsys: pytest.CaptureFixture[str], clean_home: Path) -> Callable[..., Answer]:
    """`saectl("plan", file)`: the command line, run in this process."""
    from sae_cli.cli.app import _run

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = _run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return run
