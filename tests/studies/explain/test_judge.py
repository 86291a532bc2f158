"""A judge behind an endpoint: what it is asked, what its answers come to, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import judged_world
import pytest
from judged_world import QUESTIONS, RULES, VARIABLE, asked
from judgeserver import HANG, KEY, JudgeServer, serving

from sae_cli.errors import Interrupted, JudgeError
from sae_cli.studies.bench import Findings
from sae_cli.studies.explain.judge import endpoint

ALL = QUESTIONS * len(RULES)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)


@pytest.fixture
def server() -> JudgeServer:
    return JudgeServer("w3")


@pytest.fixture
def address(server: JudgeServer) -> Iterator[str]:
    with serving(server) as where:
        yield where


def values(found: Findings) -> dict[str, float | None]:
    return {figure.metric: figure.value for figure in found.figures}


def test_a_judge_that_knows_the_latent_is_right(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    found, _, (record, other) = asked(address, tmp_path)
    assert record["judge"]["explanation"] == "the word w3"
    assert record["judge"]["detection"]["f1"] == record["judge"]["fuzzing"]["f1"] == 1
    assert other["judge"]["fuzzing"]["f1"] == 0  # it thinks of w3 there as well
    assert values(found)["judge_fuzzing_f1_v1"] == 0.5
    assert {f.n for f in found.figures if f.metric == "judge_detection_f1_v1"} == {2}
    assert found.method["judge_model"] == "a-model"
    assert found.method["judge"]["answers"] == len(server.asked) == ALL
    assert found.method["judge"]["tokens_in"] == 100 * ALL
    assert server.keys == {f"Bearer {KEY}"}


def test_what_is_asked_has_the_windows_and_the_marks(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    _, made, _ = asked(address, tmp_path, rules=("on w3",), temperature=0.0)
    explain, *judged = server.asked
    assert explain["model"] == "a-model" and explain["temperature"] == 0
    assert explain["response_format"]["json_schema"]["schema"]["required"] == ["explanation"]
    lines = explain["messages"][1]["content"].splitlines()
    assert len(lines) == 5 and all("<<w3>>" in line and '"w3" 10' in line for line in lines)
    for body in judged:
        said = body["messages"][1]["content"]
        assert said.startswith("The feature is active on: the word w3\n")
        assert [line.split(".")[0] for line in said.splitlines()[2:]] == list("12345")
        words = len(said.replace("<<", " ").replace(">>", " ").split())
        assert words >= 5 * made.spec.window
    assert sum("<<" in body["messages"][1]["content"] for body in judged) == 2


def test_without_a_variable_no_key_is_sent(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    asked(address, tmp_path, api_key_env=None)
    assert server.keys == {None}


def test_a_missing_key_is_an_error_that_names_its_variable(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(JudgeError, match=VARIABLE):
        asked(address, tmp_path)


@pytest.mark.parametrize(
    "fault", [(429, {"Retry-After": "0"}, ""), (500, {}, "oh"), (503, {}, ""), (200, {}, "<html>")]
)
def test_what_passes_is_asked_again(
    fault: Any, server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = [fault, fault]
    found, *_ = asked(address, tmp_path)
    assert found.method["judge"]["failed"] == {}
    assert len(server.asked) == ALL and len(server.times) == ALL + 2


@pytest.mark.parametrize("dated", [False, True])
def test_a_server_that_says_when_is_not_asked_sooner(
    dated: bool, server: JudgeServer, address: str, tmp_path: Path
) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    server.faults = [(429, {"Retry-After": when if dated else "1"}, "")]
    asked(address, tmp_path, concurrency=1)
    assert server.times[1] - server.times[0] >= (0.9 if dated else 1.0)


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_an_outage_is_no_finding_and_the_next_run_asks_what_is_missing(
    answered: int, server: JudgeServer, address: str, tmp_path: Path
) -> None:
    """It meets an explanation, a judgement, or the second try at one whose answer was no use."""
    # The second try comes after its round; of an unexplained latent nothing else is asked.
    first: list[str | None] = [[], [None], [None, "yes, no", None, None, None]][answered]
    server.faults = [*first, *[(500, {}, f"no room for {KEY}")] * 3]
    with pytest.raises(JudgeError) as error:
        asked(address, tmp_path, concurrency=1)
    count = {0: ALL - QUESTIONS + 1, 1: ALL, 2: ALL + 1}[answered]
    assert str(error.value).startswith(
        f"{address} left 1 of {count} questions without an answer; the last: the server said 500: "
        "no room for [key]"
    )
    assert "run the same command again" in str(error.value.hint)
    assert len(server.asked) == count - 1  # all that could be asked was
    before = len(server.times)
    found, *_ = asked(address, tmp_path, retries=0)
    assert len(server.times) - before == (QUESTIONS if answered == 0 else 1)
    assert found.method["judge"]["failed"] == {} and found.method["judge"]["judged"] == 2


def test_a_question_that_the_server_will_never_take_is_counted_and_not_asked_for_again(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    """As one that is too long for it, or against its rules."""
    server.faults = [None, (413, {}, "too long")]
    found, *_ = asked(address, tmp_path, concurrency=1)
    (reason,) = found.method["judge"]["failed"]
    assert reason.startswith("the server said 413")


def test_where_the_budget_forbids_to_ask_again_the_study_ends_with_that(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    """An explanation sets aside about 1050 tokens: there is room for one attempt."""
    server.faults = [HANG]
    limit = {"max_tokens": 2000, "answer_tokens": 20, "timeout": 0.5, "concurrency": 1}
    found, _, (record, _) = asked(address, tmp_path, **limit)
    assert "the budget has no room to ask again" in record["judge"]["reason"]
    assert found.method["judge"]["judged"] == 0


def test_a_question_without_a_usable_answer_is_counted_and_no_ones_mistake(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = [None, "no", *[None] * 19, "no"]
    found, _, (record, _) = asked(
        address, tmp_path, concurrency=1, rules=("on w3", "at random"), per_prompt=1
    )
    (reason,) = found.method["judge"]["failed"]
    assert reason.startswith("the answer can't be read")
    assert found.method["judge"]["failed"][reason] == 1
    assert record["judge"]["failed"] == {reason: 1}
    assert record["judge"]["detection"] is None  # four windows of one kind are too few
    assert record["judge"]["fuzzing"]["f1"] == 1


def test_a_server_that_hangs_is_asked_again(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = [HANG]
    found, *_ = asked(address, tmp_path, timeout=1.0, concurrency=1)
    assert found.method["judge"]["failed"] == {} and len(server.times) == ALL + 1
    assert found.method["judge"]["tokens_in"] > 100 * ALL  # what it may have cost is counted


def test_an_answer_that_can_not_be_read_is_asked_for_once_more(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = ['{"explanation": ', '```json\n{"explanation": "w3"}\n```', "yes, no"]
    found, _, (record, _) = asked(address, tmp_path, concurrency=1)
    assert record["judge"]["explanation"] == "w3" and found.method["judge"]["failed"] == {}
    again = server.asked[1]["messages"]
    assert [each["role"] for each in again] == ["system", "user", "assistant", "user"]
    assert found.method["judge"]["answers"] == ALL + 2


def test_one_that_stays_unreadable_is_a_failure_with_its_reason(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = ["no", "no"]
    found, _, (record, other) = asked(address, tmp_path, concurrency=1)
    (reason,) = found.method["judge"]["failed"]
    assert "can't be read" in reason and record["judge"]["reason"] == reason
    assert other["judge"]["explanation"] is not None
    assert found.method["judge"]["latents"] == 2 and found.method["judge"]["judged"] == 1
    assert {f.n for f in found.figures if f.metric == "judge_detection_f1_v1"} == {1}


def test_a_server_that_refuses_the_form_is_asked_without(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.refuses_form = True
    found, _, (record, _) = asked(address, tmp_path, concurrency=1)
    assert record["judge"]["fuzzing"]["f1"] == 1
    assert len(server.times) == ALL + 1  # it is offered once
    assert not any("response_format" in body for body in server.asked)
    assert found.method["judge"]["failed"] == {}


def test_a_server_that_wants_the_newer_name_of_the_limit_gets_it(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = [(400, {}, "use max_completion_tokens instead")]
    asked(address, tmp_path, concurrency=1, answer_tokens=77)
    assert {body.get("max_completion_tokens") for body in server.asked} == {77}
    assert "response_format" in server.asked[0]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_will_not_pass_ends_the_study(
    status: int, server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = [(status, {}, f"wrong key {KEY}")] * 3
    with pytest.raises(JudgeError) as error:
        asked(address, tmp_path)
    assert len(server.times) == 1 and KEY not in str(error.value)


def test_nobody_at_the_address_ends_the_study(tmp_path: Path) -> None:
    with serving(JudgeServer("w3")) as gone:
        pass
    with pytest.raises(JudgeError, match="no judge answers"):
        asked(gone, tmp_path)


def test_a_server_that_is_down_for_good_ends_the_study(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = [json.dumps({"explanation": "w3"}), *[(503, {}, "down")] * 100]
    with pytest.raises(JudgeError, match="8 questions in a row"):
        asked(address, tmp_path, retries=0, per_prompt=1)
    server.faults = []
    found, *_ = asked(address, tmp_path, retries=0, per_prompt=1)
    assert found.method["judge"]["failed"] == {}


def test_an_answer_is_paid_for_once(server: JudgeServer, address: str, tmp_path: Path) -> None:
    first, _, records = asked(address, tmp_path)
    notes: list[str] = []
    again, _, same = asked(address, tmp_path, note=notes.append)
    assert (again, same) == (first, records) and len(server.times) == ALL
    assert notes[-1] == f"judge: 0 questions were sent, {ALL} had answers from before"
    asked(address, tmp_path, model="another")
    assert len(server.times) == 2 * ALL


def test_a_damaged_answer_is_asked_for_again(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    first, *_ = asked(address, tmp_path)
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == ALL
    files[0].write_text('{"answer": {"te')
    files[1].write_text("{}")
    again, *_ = asked(address, tmp_path)
    assert again == first and len(server.times) == ALL + 2


def test_a_run_that_is_killed_goes_on_and_pays_nothing_twice(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    """Killed as its fourth request arrives, which alone is made again."""
    running = subprocess.Popen(
        [sys.executable, judged_world.__file__, address, str(tmp_path / "killed")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )

    def kill(count: int) -> None:
        if count == 4:
            running.send_signal(signal.SIGKILL)
            running.wait()

    server.on_request = kill
    assert running.wait() == -signal.SIGKILL
    assert len(list((tmp_path / "killed").rglob("[!.]*.json"))) == 3
    server.on_request = lambda count: None
    went_on, _, records = asked(address, tmp_path / "killed")
    assert len(server.times) == ALL + 1
    whole, _, same = asked(address, tmp_path / "whole")
    assert (went_on, records) == (whole, same)


def test_a_stop_keeps_what_was_answered(server: JudgeServer, address: str, tmp_path: Path) -> None:
    def leave(where: str) -> None:
        if len(server.times) >= 3:
            raise Interrupted(where)

    with pytest.raises(Interrupted):
        asked(address, tmp_path, leave=leave, concurrency=1)
    kept = len(list(tmp_path.rglob("*.json")))
    assert 3 <= kept < ALL
    before = len(server.times)
    asked(address, tmp_path)
    assert len(server.times) - before == ALL - kept


def test_the_budget_ends_the_study_before_it_is_exceeded(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    """A latent costs 4050 tokens: there is room for one, and not for all of the next."""
    server.usage = (800, 10)
    limit = {"max_tokens": 7000, "answer_tokens": 20, "concurrency": 1}
    found, _, (record, other) = asked(address, tmp_path, **limit)
    spent = found.method["judge"]
    assert spent["tokens_in"] + spent["tokens_out"] <= 7000
    assert QUESTIONS < len(server.asked) == spent["answers"] < ALL
    assert record["judge"]["detection"] and other["judge"]["explanation"] is None
    assert "budget" in other["judge"]["reason"] and "budget" in spent["stopped"]
    assert {f.n for f in found.figures if f.metric == "judge_detection_f1_v1"} == {1}
    again, _, same = asked(address, tmp_path, **limit)
    assert (again, same[1]) == (found, other) and len(server.asked) == spent["answers"]


def test_a_budget_without_room_for_anything_asks_nothing(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    money = {"max_tokens": None, "max_cost": 1e-6, "price_in": 1.0, "price_out": 2.0}
    found, *_ = asked(address, tmp_path, **money)
    assert server.times == []
    assert set(values(found).values()) == {None}
    assert all("budget" in str(figure.reason) for figure in found.figures)
    assert found.method["judge"]["cost"] == 0


def test_money_is_counted_by_the_prices(server: JudgeServer, address: str, tmp_path: Path) -> None:
    prices = {"max_cost": 1.0, "price_in": 3.0, "price_out": 5.0}
    found, *_ = asked(address, tmp_path, **prices)
    assert found.method["judge"]["cost"] == pytest.approx(ALL * (100 * 3 + 10 * 5) / 1e6)


def test_a_server_that_tells_no_usage_is_counted_at_the_most(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.usage = None
    found, *_ = asked(address, tmp_path, answer_tokens=33)
    sent = sum(len(m["content"].encode()) for body in server.asked for m in body["messages"])
    assert found.method["judge"]["tokens_in"] > sent
    assert found.method["judge"]["tokens_out"] == 33 * ALL


def test_what_it_will_cost_is_said_before_the_first_question(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    said: list[tuple[int, str]] = []
    prices = {"max_cost": 1.0, "price_in": 3.0, "price_out": 5.0}
    asked(address, tmp_path, note=lambda line: said.append((len(server.times), line)), **prices)
    before, line = said[0]
    assert before == 0
    assert line.startswith(f"judge a-model: {ALL} questions about 2 latents of 1 SAEs")
    assert "in money" in line and "1,000,000 tokens" in line


def test_the_key_is_nowhere_on_disk_and_in_no_word(
    server: JudgeServer, address: str, tmp_path: Path
) -> None:
    server.faults = [f"You are {KEY}", json.dumps({"explanation": f"w3 {KEY}"}),
                     (500, {}, KEY)]  # fmt: skip
    said: list[str] = []
    found, _, records = asked(address, tmp_path, note=said.append, concurrency=1)
    assert KEY not in repr((found, records, said))
    assert "w3 [key]" in records[0]["judge"]["explanation"]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files and all(KEY.encode() not in file.read_bytes() for file in files)
