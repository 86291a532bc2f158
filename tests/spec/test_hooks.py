"""Names that others give to a place are read as the place that they mean, or not at all."""

from __future__ import annotations

from typing import get_args

import pytest

from sae_cli.lm.names import hook_name
from sae_cli.spec.hooks import input_of, spot_of
from sae_cli.spec.stages import Site


@pytest.mark.parametrize("site", get_args(Site))
def test_what_we_call_a_site_is_read_back(site: Site) -> None:
    assert spot_of(hook_name(11, site)) == (11, site)


@pytest.mark.parametrize(
    ("name", "spot"),
    [
        ("model.layers.3", (3, "resid_post")),
        ("model.layers.3.mlp", (3, "mlp_out")),
        ("model.layers.3.self_attn", (3, "attn_out")),
        ("layers.12.mlp", (12, "mlp_out")),
        ("transformer.h.0.attn", (0, "attn_out")),
        ("gpt_neox.layers.5.attention", (5, "attn_out")),
        ("resid_post_layer_8", (8, "resid_post")),
        ("mlp_out_layer_8", (8, "mlp_out")),
        ("blocks.2.mlp.hook_out", (2, "mlp_out")),
    ],
)
def test_names_of_others_are_understood(name: str, spot: tuple[int, Site]) -> None:
    assert spot_of(name) == spot


@pytest.mark.parametrize(
    "name",
    [
        "blocks.3.ln2.hook_normalized",  # before the norm's gain
        "blocks.3.hook_mlp_in",
        "model.layers.3.self_attn.o_proj",
        "model.embed_tokens",
        "model.layers.3.mlp.down_proj",
        "lm_head",
        "",
        "None",
    ],
)
def test_what_is_no_site_of_ours_is_not_guessed_at(name: str) -> None:
    assert spot_of(name) is None


def test_only_of_an_mlp_the_input_is_known() -> None:
    assert input_of("layers.4.mlp") == (4, "mlp_in")
    assert input_of("layers.4") is None and input_of("layers.4.attn") is None
