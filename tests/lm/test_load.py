"""A model arrives frozen and in the asked dtype, or one clear sentence arrives quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import is_flash_attn_2_available

from sae_cli.errors import ModelError
from sae_cli.lm.check import check_layer
from sae_cli.lm.device import pick_device
from sae_cli.lm.hub import scrub
from sae_cli.lm.load import load_model, load_tokenizer
from sae_cli.lm.pack import Packer
from sae_cli.lm.splice import forward_logits
from sae_cli.spec.stages import DataSpec, ModelSpec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(build, words, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    build("qwen3").save_pretrained(path)
    words.save_pretrained(path)
    return path


def test_a_local_folder_loads_frozen_and_in_the_dtype_of_the_spec(folder, build, blocks):
    model = load_model(ModelSpec(path=str(folder), dtype="bfloat16"), CPU)
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    same = load_model(ModelSpec(path=str(folder), dtype="float32"), CPU)
    assert torch.equal(same(blocks).logits, build("qwen3")(blocks).logits)


def test_the_attention_kernel_is_the_one_asked_for(folder):
    spec = ModelSpec(path=str(folder), attn_implementation="eager")
    assert load_model(spec, CPU).config._attn_implementation == "eager"


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is here")
def test_flash_attention_that_is_not_there_is_named_with_what_to_do(folder):
    with pytest.raises(ModelError) as caught:
        load_model(ModelSpec(path=str(folder), attn_implementation="flash_attention_2"), CPU)
    assert "needs an NVIDIA GPU and the package flash-attn" in str(caught.value)
    assert "`pip install flash-attn`, or leave `model.attn_implementation` at sdpa" in str(
        caught.value
    )


def test_a_tokenizer_comes_from_the_same_folder(folder, words):
    tokenizer = load_tokenizer(ModelSpec(path=str(folder)))
    assert tokenizer("w3 w4")["input_ids"] == words("w3 w4")["input_ids"]
    assert tokenizer.chat_template == words.chat_template


def test_a_missing_folder_and_one_that_is_no_model_say_so(tmp_path):
    with pytest.raises(ModelError, match="there is no model folder"):
        load_model(ModelSpec(path=str(tmp_path / "nowhere")), CPU)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"no config\.json \(it holds notes\.txt\)"):
        load_tokenizer(ModelSpec(path=str(tmp_path)))


def test_pickled_weights_are_never_opened(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are never opened"):
        load_model(ModelSpec(path=str(tmp_path)), CPU)


def test_code_of_a_repository_runs_only_if_the_spec_allows_it(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {
            "AutoConfig": "homemade.HomemadeConfig",
            "AutoModelForCausalLM": "homemade.HomemadeModel",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "homemade.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ModelError, match="not run unless you say so") as caught:
        load_model(ModelSpec(path=str(tmp_path)), CPU)
    assert "trust_remote_code: true" in str(caught.value)


def test_torn_weights_are_an_error_of_ours(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="could not be loaded"):
        load_model(ModelSpec(path=str(tmp_path)), CPU)


def test_the_builtin_model_loads_and_reads_its_own_packed_text():
    spec = ModelSpec(builtin="tiny")
    model = load_model(spec, CPU)
    for layer in range(model.config.num_hidden_layers):
        check_layer(model, layer)
    data = DataSpec(tokens=4096, heldout_tokens=128)
    group = next(Packer(data, load_tokenizer(spec), group=32).blocks())
    tokens = torch.from_numpy(group.tokens).long()
    logits = forward_logits(model, tokens)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss < 1.0, "a model that knows this language, its chat format and its document ends"


def test_devices_are_picked_by_name_and_absent_ones_refused():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(ModelError, match="not available here"):
        pick_device("cuda:99")
    with pytest.raises(ModelError, match="not available here"):
        pick_device("toaster")


def test_secrets_are_taken_out_of_messages():
    said = scrub("Bearer abc.def at https://me:pw@proxy:80/x?t with hf_AbCdEfGhIjKl")
    assert said == "Bearer *** at https://***@proxy:80/x?t with hf_***"


ASK = """
import json, sys, time, torch
from sae_cli.errors import SaectlError
from sae_cli.lm.load import load_model, load_tokenizer
from sae_cli.lm.sources import documents
from sae_cli.spec.stages import ModelSpec, Source
said = {}
def attempt(name, what):
    begun = time.monotonic()
    try:
        what()
    except SaectlError as error:
        said[name] = [type(error).__name__, str(error), time.monotonic() - begun]
for name in sys.argv[1:]:
    spec = ModelSpec(hf=name, revision="v9" if "old" in name else None)
    attempt(name, lambda: load_model(spec, torch.device("cpu")))
    attempt("tokenizer " + name, lambda: load_tokenizer(spec))
    attempt("dataset " + name, lambda: next(documents(Source(hf=name), seed=0)))
print(json.dumps(said))
"""


def asked(endpoint, home, *names):
    """What loading each of `names` says in a fresh process whose hub is `endpoint`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_verysecretvalue"}
    env |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "verysecret" not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_network_a_hub_model_ends_in_seconds_and_says_how_to_fetch_it(tmp_path):
    said = asked("http://127.0.0.1:9", tmp_path, "Qwen/Qwen3-4B")
    kind, text, seconds = said["Qwen/Qwen3-4B"]
    assert kind == "ModelError"
    assert "Qwen/Qwen3-4B" in text
    assert "cannot be reached" in text
    assert "`hf download Qwen/Qwen3-4B`" in text
    assert "--model /path/to/folder" in text
    assert seconds < 10
    assert said["tokenizer Qwen/Qwen3-4B"][1] == text
    kind, text, seconds = said["dataset Qwen/Qwen3-4B"]
    assert kind == "DataError"
    assert "cannot be reached" in text
    assert "hf download Qwen/Qwen3-4B --repo-type dataset" in text
    assert seconds < 10


class Hub(BaseHTTPRequestHandler):
    """A hub that knows repositories by what is wrong with them."""

    CODES = {"gated": (403, "GatedRepo"), "old": (404, "RevisionNotFound")} | {
        "bare": (404, "EntryNotFound"),
        "gone": (401, "RepoNotFound"),
        "sick": (500, ""),
    }

    def do_HEAD(self):
        status, code = next(v for k, v in self.CODES.items() if f"/{k}" in self.path)
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


def test_what_the_hub_answers_is_told_apart(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        names = [f"org/{name}" for name in Hub.CODES]
        said = asked(f"http://127.0.0.1:{server.server_port}", tmp_path, *names)
    finally:
        server.shutdown()
        server.server_close()
    wanted = {
        "org/gated": "is gated: its licence has to be accepted first",
        "org/old": "model org/old has no revision v9",
        "org/bare": "not a transformers model",
        "org/gone": "was not found on the hub, or it is private",
        "org/sick": "the hub refused to hand out model org/sick",
        "dataset org/gated": "dataset org/gated is gated",
        "dataset org/gone": "dataset org/gone was not found",
    }
    for name, sentence in wanted.items():
        assert sentence in said[name][1], said[name]
        assert said[name][2] < 10
    assert "hf auth login" in said["org/gated"][1]
