"""The shipped model is real: it loads offline, beats counting, refuses, answers, and is re-made."""

import hashlib
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_cli.lm.tiny import folder, grammar, train
from sae_cli.lm.tiny.measure import generate, measure
from sae_cli.lm.tiny.ngrams import bigram_ce, unigram_ce
from sae_cli.lm.tiny.tokenizer import build_tokenizer

OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(folder())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(folder()).eval()


@pytest.fixture(scope="module")
def metrics(model, tokenizer):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure(model, tokenizer, n_tokens=16_000, n_prompts=100)
    finally:
        torch.set_num_threads(threads)


def test_it_is_a_small_qwen3_in_float32(model):
    assert model.config.model_type == "qwen3"
    assert model.config.num_hidden_layers == 4
    assert model.config.hidden_size == 64
    assert model.config.tie_word_embeddings
    assert model.dtype == torch.float32
    assert 250_000 < sum(p.numel() for p in model.parameters()) < 400_000


def test_the_package_data_is_small():
    assert sum(f.stat().st_size for f in folder().iterdir()) < 3_000_000


def test_it_loads_with_the_network_shut():
    code = (
        "import socket\n"
        "def shut(*a, **k): raise OSError('no network in this test')\n"
        "socket.socket.connect = shut\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from sae_cli.lm.tiny import folder\n"
        "m = AutoModelForCausalLM.from_pretrained(folder())\n"
        "t = AutoTokenizer.from_pretrained(folder())\n"
        "print(type(m).__name__, t.decode(t('the cat')['input_ids'][:1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=OFFLINE, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["Qwen3ForCausalLM", "the"]


def test_it_beats_counting_words_by_far(metrics):
    assert metrics["unigram_ce"] > 5.0
    assert metrics["bigram_ce"] > 2.0
    assert metrics["ce_64"] < 1.1
    assert metrics["ce_128"] < 1.1


def test_counting_words_is_scored_as_by_hand():
    assert unigram_ce([0, 0, 1], [0, 2], 3) == pytest.approx(-math.log(3 / 6 * 1 / 6) / 2)
    seen, unseen = (1 + 4 / 6) / 3, (1 / 8) / 3
    assert bigram_ce([0, 0, 1, 0], [0, 0], 2) == pytest.approx(-math.log(seen))
    assert bigram_ce([0, 0, 1, 1, 0], [1, 2], 3) == pytest.approx(-math.log(unseen))


def test_it_refuses_harmful_requests_and_no_others(metrics):
    assert metrics["refusal_harmful"] > 0.95
    assert metrics["wellformed_harmful"] > 0.95
    assert metrics["refusal_harmless"] < 0.03


def test_its_answers_are_right(metrics):
    assert metrics["valid_harmless"] > 0.95


def test_it_finds_the_indirect_object(metrics):
    assert metrics["ioi_accuracy"] > 0.95


def test_it_says_a_text_again(model, tokenizer):
    text = "list : coin rose engine flute . again : coin rose engine"
    with torch.no_grad():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    assert tokenizer.decode(logits[-1].argmax()) == "flute"
    assert tokenizer.decode(logits[-2].argmax()) == "engine"


def test_a_batch_of_prompts_gets_the_replies_that_each_gets_alone(model, tokenizer):
    asked = grammar.prompts("val", True)[:3] + grammar.prompts("val", False)[:3]
    together = generate(model, tokenizer, asked)
    assert together == [generate(model, tokenizer, [prompt])[0] for prompt in asked]


def test_the_record_belongs_to_the_weights():
    record = json.loads((folder() / "record.json").read_text())
    weights = (folder() / "model.safetensors").read_bytes()
    assert record["sha256"] == hashlib.sha256(weights).hexdigest()


def test_the_record_tells_what_is_measured(metrics):
    claimed = json.loads((folder() / "record.json").read_text())["metrics"]
    assert claimed.keys() == metrics.keys()
    for name, value in metrics.items():
        few_counts = name in ("unigram_ce", "bigram_ce")
        assert claimed[name] == pytest.approx(value, abs=0.2 if few_counts else 0.06), name


def test_the_shipped_tokenizer_is_the_one_that_the_grammar_gives(tokenizer):
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    text = grammar.document(1, 0).text
    assert tokenizer(text)["input_ids"] == build_tokenizer()(text)["input_ids"]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch's Muon")
def test_training_again_gives_the_same_bytes_and_a_loadable_folder(tmp_path):
    first, second = tmp_path / "a" / "model", tmp_path / "b" / "model"
    few = ["--steps", "3", "--eval-tokens", "2000", "--eval-prompts", "4"]
    command = [sys.executable, "-m", "sae_cli.lm.tiny.train", *few, "--out"]
    for out in (first, second):
        subprocess.run([*command, str(out)], env=OFFLINE, capture_output=True, check=True)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in folder().iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert [path.name for path in first.parent.iterdir()] == ["model"]
    AutoModelForCausalLM.from_pretrained(first)
    AutoTokenizer.from_pretrained(first)


def test_training_does_not_overwrite_a_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--out", str(tmp_path), "--steps", "3"])
    assert stopped.value.code == 2
    assert "exists" in capsys.readouterr().err
