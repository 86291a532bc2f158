"""What enters a key: every field but those that only say how the work is done."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import ValidationError

from sae_cli.spec.base import Execution, Frozen, Later, Shape, identity
from sae_cli.spec.stages import CacheSpec, DataSpec, EvalSpec, ModelSpec, Source
from sae_cli.spec.train import ARCHITECTURES
from sae_cli.store.key import canonical


class Inner(Frozen):
    depth: int = 1
    threads: Annotated[int, Execution()] = 1


class Part(Frozen):
    size: int = 3
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}
    host: Annotated[str, Execution()] = "here"
    added: Annotated[int, Later()] = 0
    added_bare: Annotated[Inner, Later] = Inner()


def test_what_only_says_how_is_left_out_at_every_depth():
    part = Part(many=(Inner(threads=4),), named={"a": Inner(threads=2)}, host="there")
    assert identity(part) == {
        "size": 3,
        "inner": {"depth": 1},
        "many": [{"depth": 1}],
        "named": {"a": {"depth": 1}},
    }


def test_a_field_added_later_is_left_out_at_its_default_and_only_there():
    assert "added" not in identity(Part(added=0))
    assert identity(Part(added=1))["added"] == 1
    assert identity(Part(added_bare=Inner(depth=2)))["added_bare"] == {"depth": 2}
    assert "added_bare" not in identity(Part(added_bare=Inner()))


def test_paths_and_places_are_in_no_identity():
    model = ModelSpec(path="/somewhere", digest="d")
    assert "path" not in identity(model) and identity(model)["digest"] == "d"
    source = Source(path="/somewhere/else.jsonl", digest="e")
    assert "path" not in identity(source) and identity(source)["digest"] == "e"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_how_often_training_saves_and_logs_is_in_no_identity(arch):
    plain = ARCHITECTURES[arch](arch=arch, width=64)
    other = ARCHITECTURES[arch](arch=arch, width=64, checkpoint_every=7, log_every=3)
    assert identity(plain) == identity(other)
    fields = type(plain).model_fields
    later = {n for n, f in fields.items() if any(isinstance(m, Later) for m in f.metadata)}
    outside = {"checkpoint_every", "log_every", "parallel", "kernels"}
    assert set(fields) - set(identity(plain)) - later == outside


@pytest.mark.parametrize("part", [DataSpec(), CacheSpec(), EvalSpec(), ModelSpec(hf="a/b")])
def test_every_identity_has_a_canonical_form(part):
    assert canonical(identity(part))


def test_a_number_is_the_same_however_it_is_written():
    whole = Source.model_validate({"builtin": "tiny", "weight": 2})
    split = Source.model_validate({"builtin": "tiny", "weight": 2.0})
    assert canonical(identity(whole)) == canonical(identity(split))
    written = DataSpec.model_validate({"tokens": 4e5})
    assert canonical(identity(written)) == canonical(identity(DataSpec(tokens=400_000)))


def test_a_spec_is_frozen():
    with pytest.raises(ValidationError):
        Part().size = 4


class Flags(Frozen):
    on: bool = False
    either: bool | None = None
    axis: tuple[bool, ...] = ()
    number: float = 1.0
    numbers: tuple[int, ...] = ()
    text: str = ""


def test_true_and_false_are_values_only_where_they_are_asked_for():
    assert Flags(on=True, either=True, axis=(True, False)).axis == (True, False)
    for field, value, place in [
        ("number", True, ("number",)),
        ("text", False, ("text",)),
        ("numbers", [3, True], ("numbers",)),
    ]:
        with pytest.raises(ValidationError) as caught:
            Flags.model_validate({field: value})
        (error,) = caught.value.errors()
        assert (error["type"], error["loc"]) == ("bool_not_allowed", place)


class Shaped(Frozen):
    code: Annotated[str, Execution(), Shape("[a-z]+", "a word in small letters")] = "x"


def test_a_shape_is_told_in_words_and_stands_in_the_schema():
    assert Shaped(code="abc").code == "abc"
    for wrong in ("", "Abc", "abc\n", "abc1"):
        with pytest.raises(ValidationError, match="is not a word in small letters"):
            Shaped(code=wrong)
    assert Shaped.model_json_schema()["properties"]["code"]["pattern"] == "^([a-z]+)$"
    assert identity(Shaped()) == {}
