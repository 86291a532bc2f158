"""Fields that came after the first keys: they move no old key, and refuse what makes no sense."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sae_cli.spec.base import identity
from sae_cli.spec.stages import DataSpec, ModelSpec


def test_left_out_they_are_in_no_key_and_given_they_are_if_they_change_the_result():
    assert "train_on" not in identity(DataSpec())
    assert identity(DataSpec(train_on=("user",)))["train_on"] == ["user"]
    plain = identity(ModelSpec(builtin="tiny"))
    assert not {"compile", "device_map"} & set(plain)
    assert identity(ModelSpec(builtin="tiny", compile=True)) == plain | {"compile": True}
    assert identity(ModelSpec(builtin="tiny", device_map="auto")) == plain


def test_the_order_of_roles_changes_nothing_and_so_no_key():
    both = DataSpec(train_on=("user", "assistant"))
    assert identity(both) == identity(DataSpec(train_on=("assistant", "user", "assistant")))


@pytest.mark.parametrize("roles", [[], [""], "user", [True]])
def test_roles_are_a_list_of_names(roles):
    with pytest.raises(ValidationError) as caught:
        DataSpec.model_validate({"train_on": roles})
    assert caught.value.errors()[0]["loc"][0] == "train_on"


def test_compiling_and_spreading_exclude_each_other():
    with pytest.raises(ValidationError, match="compile and device_map can't be combined"):
        ModelSpec(builtin="tiny", compile=True, device_map="auto")
