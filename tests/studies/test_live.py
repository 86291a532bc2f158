"""What an SAE sees of a text is what plain forwards and its formula give, where a token counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import CHAT, TEXT, live, own, reader
from torch import Tensor

from sae_cli.errors import DataError, ModelError, StoreError
from sae_cli.lm import masks
from sae_cli.studies.watch import live as living

END, START = 0, "<|im_start|>"


def hidden(ids: Tensor, layer: int) -> Tensor:
    """float64 [T, 64]: what leaves a layer, as transformers says it."""
    said = reader().model(input_ids=ids, output_hidden_states=True, use_cache=False)
    return said.hidden_states[layer + 1][0].double()


def test_a_text_is_read_behind_the_token_that_ends_a_document() -> None:
    ids = reader().ids(TEXT)
    assert ids.shape == (1, 10)
    assert reader().words(ids) == ["<|endoftext|>", *TEXT.split()]


@pytest.mark.parametrize("arch", ["relu_l1", "jumprelu", "topk"])
def test_latents_are_those_of_a_plain_forward_and_the_formula(tmp_path: Path, arch: str) -> None:
    one = live(tmp_path, own(layer=1), arch=arch)
    ids = reader().ids(TEXT)
    seen, sae = one.read(ids), one.sae
    pre = hidden(ids, 1) @ sae.W_enc.double() + sae.b_enc.double()
    wanted = pre.clamp_min(0)
    if arch == "jumprelu":
        assert sae.threshold is not None
        wanted = torch.where(pre > sae.threshold.double(), wanted, 0)
    if arch == "topk":
        wanted = torch.where(pre >= pre.sort(1).values[:, -5:-4], wanted, 0)
    wanted[0] = 0
    assert torch.allclose(seen.latents.double(), wanted, atol=1e-4)
    assert torch.allclose(seen.acts.double(), hidden(ids, 1), atol=1e-5)
    assert seen.keep.tolist() == [False] + [True] * 9 and (seen.reasons[1:] == 0).all()
    assert seen.latents[1:].any(1).all()


def test_special_tokens_have_no_latents_and_say_why(tmp_path: Path) -> None:
    seen = live(tmp_path).read(reader().ids(CHAT))
    words = reader().words(seen.ids)
    for word, reasons, keep, latents in zip(
        words, seen.reasons, seen.keep, seen.latents, strict=True
    ):
        assert keep == (not word.startswith("<|")) and bool(latents.any()) == bool(keep)
        assert bool(reasons & masks.SPECIAL) == (not keep)
    assert words[1] == START and seen.reasons[1] == masks.SPECIAL


@pytest.mark.parametrize(
    ("mask", "counting"),
    [
        ({"special": False, "first_positions": 0}, 9),
        ({"special": False, "first_positions": 4}, 6),
        ({"special": True, "first_positions": 1}, 9),
    ],
)
def test_the_token_in_front_never_counts_whatever_the_mask_says(
    tmp_path: Path, mask: dict[str, Any], counting: int
) -> None:
    seen = live(tmp_path, own(mask=mask)).read(reader().ids(TEXT))
    assert not seen.keep[0] and int(seen.keep.sum()) == counting


def test_a_token_above_the_limit_is_an_outlier_where_the_mask_knows_them(tmp_path: Path) -> None:
    norms = hidden(reader().ids(TEXT), 2).norm(dim=1)
    limit = float(norms[1:].median())
    seen = live(tmp_path / "a", limit=limit).read(reader().ids(TEXT))
    assert [bool(r & masks.OUTLIER) for r in seen.reasons[1:]] == (norms[1:] > limit).tolist()
    assert (seen.keep[1:] == (norms[1:] <= limit)).all() and 3 <= int(seen.keep.sum()) <= 6
    deaf = own(mask={"outlier_multiple": None})
    assert live(tmp_path / "b", deaf, limit).read(reader().ids(TEXT)).keep[1:].all()


def test_some_columns_are_those_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, ids = live(tmp_path, arch="topk"), reader().ids(CHAT)
    whole = one.read(ids)
    monkeypatch.setattr(living, "ROWS", 3)
    values, keep = one.columns(ids, [7, 0, 19])
    assert torch.allclose(values, whole.latents[:, [7, 0, 19]], atol=1e-5)
    assert torch.equal(keep, whole.keep) and values.any()


def test_an_sae_of_another_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"32 dimensions, where resid_post of layer 2 .* has 64"):
        live(tmp_path / "a", d_in=32)
    with pytest.raises(ModelError, match="layer"):
        live(tmp_path / "b", own(layer=40))


def test_a_transcoder_reads_one_site_and_writes_another(tmp_path: Path) -> None:
    one = live(tmp_path, own(site="mlp_in", out_site="mlp_out"), arch="jumprelu", skip=True)
    assert (one.tap.site, one.written.site, one.transcodes) == ("mlp_in", "mlp_out", True)
    assert live(tmp_path / "b").written.site == "resid_post"


@pytest.mark.parametrize(("text", "why"), [("", "empty"), ("the \udcff", "not UTF-8")])
def test_what_is_no_text_is_refused(text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        reader().ids(text)


def test_a_chat_stands_in_the_models_own_template() -> None:
    said = reader().chat([{"role": "user", "content": "hello"}])
    assert said == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    told = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello ."}]
    assert reader().chat(told, answer=False).endswith("hello .<|im_end|>\n")


def test_the_model_says_how_much_it_reads_at_once() -> None:
    assert reader().context == 512
