"""What a spec may say of a judge, and what of it decides a result."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sae_cli.spec.base import identity
from sae_cli.spec.studies import ExplanationsStudy, JudgeSpec

JUDGE = {"base_url": "http://localhost:8000/v1", "model": "m", "max_tokens": 1000}


def made(**fields: Any) -> ExplanationsStudy:
    return ExplanationsStudy(judge=JudgeSpec.model_validate(JUDGE | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "https://elsewhere.example/v1"},
        {"api_key_env": "KEY"},
        {"timeout": 1.0},
        {"retries": 0},
        {"concurrency": 9},
    ],
)
def test_where_it_is_and_how_it_is_asked_decide_nothing(fields: dict[str, Any]) -> None:
    assert identity(made(**fields)) == identity(made())


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"max_tokens": 2000},
        {"temperature": None},
        {"shown": 3},
        {"per_prompt": 1},
        {"latents": 3},
        {"answer_tokens": 9},
        {"price_in": 1.0},
    ],
)
def test_who_is_asked_what_and_for_how_much_decide_it(fields: dict[str, Any]) -> None:
    assert identity(made(**fields)) != identity(made())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": None}, "say what may be spent"),
        ({"max_tokens": None, "max_cost": 1.0, "price_in": 1.0}, "price_in and price_out"),
        ({"base_url": "http://user:secret@host/v1"}, "no user, password or query"),
        ({"base_url": "http://host/v1?key=secret"}, "no user, password or query"),
        ({"base_url": "host/v1"}, "no user, password or query"),
        ({"api_key_env": "sk-1234"}, "the name of a variable"),
        ({"api_key": "sk-1234"}, "Extra inputs"),
    ],
)
def test_a_judge_without_a_limit_or_with_a_secret_is_refused(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        made(**fields)
