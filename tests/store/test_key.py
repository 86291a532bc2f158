"""Keys: the same everywhere, for plain data only."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sae_cli.errors import UsageError
from sae_cli.store.key import canonical, key_of, slug


class Colour(enum.StrEnum):
    RED = "red"


def test_canonical_json_is_sorted_and_dense() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"z": "ä", "y": ()}}
    assert canonical(value) == '{"a":{"y":[],"z":"\\u00e4"},"b":[1,2.5,null,true]}'


def test_the_order_of_keys_and_the_kind_of_sequence_do_not_matter() -> None:
    assert canonical({"a": (1, 2), "b": 0}) == canonical({"b": 0, "a": [1, 2]})


def test_equal_zeros_share_a_form_and_differing_types_do_not() -> None:
    assert canonical(-0.0) == canonical(0.0) == "0.0"
    assert len({canonical(1), canonical(1.0), canonical(True), canonical("1")}) == 4


def test_text_is_kept_code_point_by_code_point() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    assert canonical(composed) != canonical(decomposed)
    assert json.loads(canonical(decomposed)) == decomposed


@pytest.mark.parametrize("x", [0.1, 1e-300, 1.7976931348623157e308, 5e-324, 2e-4 / 3])
def test_floats_come_back_as_they_were(x: float) -> None:
    assert json.loads(canonical(x)) == x


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, float("nan")]}, r"\$\.a\[1\]"),
        ({"a": float("inf")}, r"\$\.a"),
        ({"a": {"b": Path("x")}}, r"\$\.a\.b"),
        ({"a": {3: 1}}, r"\$\.a: the key 3"),
        ([np.float64(1.0)], r"\$\[0\]"),
        ([np.int64(1)], r"\$\[0\]"),
        ([Colour.RED], r"\$\[0\]"),
        ({1, 2}, r"\$: a builtins\.set"),
        (b"x", r"\$: a builtins\.bytes"),
    ],
)
def test_what_has_no_canonical_form_is_refused_where_it_stands(value: object, path: str) -> None:
    with pytest.raises(TypeError, match=path):
        canonical(value)


def test_a_key_is_pinned_and_every_part_of_it_matters() -> None:
    base = key_of("train", 1, {"k": 32}, {"cache": "0" * 8})
    assert base == "e7d3e20f"
    others = [
        key_of("eval", 1, {"k": 32}, {"cache": "0" * 8}),
        key_of("train", 2, {"k": 32}, {"cache": "0" * 8}),
        key_of("train", 1, {"k": 33}, {"cache": "0" * 8}),
        key_of("train", 1, {"k": 32}, {"cache": "1" * 8}),
        key_of("train", 1, {"k": 32}, {}),
    ]
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Qwen/Qwen3-4B", "Qwen-Qwen3-4B"),
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a\x00b\nc", "a-b-c"),
        ("qwen3-4b.L18.resid_post", "qwen3-4b.L18.resid_post"),
    ],
)
def test_a_slug_is_one_safe_component(text: str, safe: str) -> None:
    assert slug(text) == safe


def test_a_slug_is_bounded_and_never_empty() -> None:
    assert slug("ab" * 200) == "ab" * 48
    assert slug("a" * 9 + "...b", limit=12) == "a" * 9
    with pytest.raises(UsageError, match="no letter or digit"):
        slug("../..")


def test_the_light_half_of_the_store_imports_nothing_heavy() -> None:
    code = (
        "import sys; import sae_cli.store.key, sae_cli.store.layout, sae_cli.store.records.ledger;"
        "import sae_cli.store.records.claim, sae_cli.store.records.status;"
        "import sae_cli.store.tables.commits;"
        "print([m for m in ('torch', 'numpy', 'zarr', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
