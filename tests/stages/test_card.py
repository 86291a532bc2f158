"""The cards of a release say what the records say, with intervals, and `unknown` otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sae_cli.spec.base import identity
from sae_cli.spec.stages import DataSpec, MaskSpec, ModelSpec, ReleaseSpec
from sae_cli.spec.train import TopKTrain
from sae_cli.stages.card import card, sae_card
from sae_cli.stages.card_entry import Entry
from sae_cli.store.weights import config

ABOUT = identity(ReleaseSpec())
DIGESTS = {"cfg.json": "a" * 64, "sae_weights.safetensors": "b" * 64}
CE = {"ce.spliced_v1": {"value": 2.5, "reason": None}}


def numbers(fvu: float, low: float | None, **more: Any) -> dict[str, Any]:
    return {
        "metrics": {"fvu.pooled_v1": {"value": fvu, "reason": None}, **more},
        "intervals": {"fvu.pooled_v1": {"low": low, "high": fvu + 0.01, "n_docs": 9}},
    }


def entry(
    record: dict[str, Any] | None = None, made: dict[str, Any] | None = None, **own: Any
) -> Entry:
    cfg = config(
        {"W_enc": torch.zeros(4, 16), "W_dec": torch.zeros(16, 4)},
        arch="topk", k=3, model_name="org/model", hook_name="blocks.2.attn.hook_z",
        hf_hook_name="model.layers.2.self_attn.o_proj", context_size=64,
        provenance={
            "saectl": "0.0.9",
            "keys": {"train": "11111111", "cache": "22222222"},
            "layer": 2,
            "site": "attn_z",
            "model": identity(ModelSpec(hf="org/model", revision="abc123")),
            "data": identity(DataSpec()),
            "mask": identity(MaskSpec()),
            "train": identity(TopKTrain(k=3, seed=7, width=16)),
            **own,
        },
    )  # fmt: skip
    return Entry("one", cfg, record or numbers(0.25, 0.24), made or {})


def shown(of: Entry) -> str:
    return sae_card(of, "suite", ABOUT, DIGESTS, "9.9")


def test_an_sae_s_card_says_where_it_reads_and_how_it_was_made() -> None:
    text = shown(entry(made={"device": "Some GPU", "steps": 1200, "tokens": 4_915_200}))
    for said in (
        "org/model (abc123, bfloat16)",
        "input of `model.layers.2.self_attn.o_proj`, TransformerLens `blocks.2.attn.hook_z`",
        "not the first 1 of a context",
        "the k largest latents of each token (k 3)",
        "7 (order of data 7, split 0)",
        "4,915,200 in 1,200 steps",
        "Some GPU, 1 process",
        "0.0.9 (training), 9.9 (release)",
        "train `11111111`, cache `22222222`",
        f"| `sae_weights.safetensors` | `{'b' * 64}` |",
    ):
        assert said in text, said


def test_what_no_record_says_is_unknown() -> None:
    text = shown(entry())
    rows = ("Authors", "License", "Tokens trained on", "Hardware of training", "Time and energy")
    for row in rows:
        assert f"| {row} | unknown |" in text, row
    assert "(unknown), under the mask" in text
    assert "Intervals: unknown." in text


def test_a_metric_stands_with_its_interval_and_a_null_with_its_reason() -> None:
    null = {"kl.spliced_v1": {"value": None, "reason": "eval.splice is off"}}
    text = shown(entry(numbers(0.25, 0.24, **null)))
    assert "| `fvu.pooled_v1` | 0.25 [0.24, 0.26] |" in text
    assert "| `kl.spliced_v1` | - (eval.splice is off) |" in text
    assert "| `fvu.pooled_v1` | 0.25 |" in shown(entry(numbers(0.25, None)))


def test_what_is_causal_follows_from_what_was_measured() -> None:
    assert "not measured, so nothing causal is claimed" in shown(entry())
    text = shown(entry(numbers(0.25, 0.24, **CE)))
    assert "causal for the reconstruction as a whole" in text
    assert "nothing causal is claimed" not in text


def test_controls_stand_beside_their_sae_in_both_cards() -> None:
    pca = {"name": "pca", "k": 3, "reason": None, **numbers(0.5, 0.49)}
    none = {"name": "random", "k": None, "reason": "the SAE's L0 rounds to 0", **numbers(0, None)}
    judged = entry(numbers(0.25, 0.24) | {"controls": [pca, none]})
    own = shown(judged)
    assert "| control pca, k 3 | control random |" in own
    assert "| 0.25 [0.24, 0.26] | 0.5 [0.49, 0.51] | the SAE's L0 rounds to 0 |" in own
    suite = card("suite", ABOUT, [judged])
    assert "| one | pca | 3 | 0.5000 [0.4900, 0.5100] |" in suite
    assert "eval.controls` names none" in shown(entry()) and "names none" in card(
        "suite", ABOUT, [entry()]
    )


def test_a_transcoder_s_card_names_both_tensors() -> None:
    cfg = config(
        {"W_enc": torch.zeros(4, 16), "W_dec": torch.zeros(16, 5)},
        arch="topk", k=3, model_name="m", hook_name="blocks.0.mlp.hook_in",
        hf_hook_name="model.layers.0.mlp", hook_name_out="blocks.0.hook_mlp_out",
        hf_hook_name_out="model.layers.0.mlp", context_size=64,
        provenance={**entry().own, "arch": "topk", "site": "mlp_in", "out_site": "mlp_out"},
    )  # fmt: skip
    text = shown(Entry("two", cfg, numbers(0.25, 0.24)))
    assert "| Tensor read | input of `model.layers.0.mlp`," in text
    assert "| Tensor predicted | output of `model.layers.0.mlp`," in text
    assert "sae_lens import" not in card("suite", ABOUT, [Entry("two", cfg, numbers(1, None))])


@pytest.mark.parametrize("field", ["title", "description", "license", "authors"])
def test_the_suite_s_card_takes_from_the_sweep_what_it_states(field: str) -> None:
    value: Any = ["Ada"] if field == "authors" else "mit"
    text = card("suite", ABOUT | {field: value}, [entry()])
    assert ("Ada" if field == "authors" else "mit") in text
    assert ("| License | unknown |" in text) == (field != "license")


def test_an_sae_of_a_model_with_random_weights_is_said_to_be_a_control() -> None:
    drawn = identity(ModelSpec(hf="org/model", revision="abc123", reinit=3))
    said = "abc123, bfloat16, a control: all weights drawn anew from seed 3"
    plain, control = entry(), entry(model=drawn)
    assert said in shown(control) and "drawn anew" not in shown(plain)
    both = card("suite", ABOUT, [plain, control])
    assert both.count("(control: random model)") == 1 and said in both


@pytest.mark.parametrize(("study", "chose"), [("stability", False), ("truth", True)])
def test_a_card_says_that_latents_were_chosen_where_a_study_chose_some(
    study: str, chose: bool
) -> None:
    studies = {study: {"key": "33333333", "figures": [], "method": {}, "detail": {}}}
    text = shown(replace(entry(), studies=studies))
    assert ("Studies chose latents" in text) is chose
    assert f"Of single latents: {study} is observational" in text
