"""The study of refusal on a bench of the embedded model: what it tells, and what it keeps back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from judgeserver import JudgeServer, serving
from studying import fresh

from sae_cli.errors import Interrupted
from sae_cli.lm.reinit import draw_anew
from sae_cli.report.catalogue import CATALOGUE
from sae_cli.spec.judge import JudgeSpec
from sae_cli.spec.steering import Intervention, SteeringStudy
from sae_cli.studies import steering
from sae_cli.studies.bench import Bench, Figure, Findings
from sae_cli.studies.steer import choice, controls, harm
from sae_cli.studies.steer.prompts import gathered
from sae_cli.studies.steer.shortlist import listed
from sae_cli.studies.steer.speak import Speaker
from sae_cli.studies.steer.world import opened

QUICK = SteeringStudy(
    selection=24, validation=8, test=12, answer_tokens=24, shortlist=4, random=3,
    strengths=(0.5, 1.0), text_tokens=512, also=(Intervention(kind="conditional"),),
)  # fmt: skip


def rows(figures: Sequence[Figure], metric: str, **where: Any) -> list[Figure]:
    return [
        f for f in figures
        if f.metric == f"steering.{metric}_v1"
        and all(getattr(f, name) == value for name, value in where.items())
    ]  # fmt: skip


@pytest.fixture(scope="module")
def found(trained: Bench) -> Findings:
    (one,) = steering.run(QUICK, fresh(trained)).values()
    return one


def test_every_figure_is_known_and_its_controls_stand_beside_it(found: Findings) -> None:
    assert {f.metric for f in found.figures} <= CATALOGUE.keys()
    induced = {f.control: f for f in rows(found.figures, "induced", slice="kept")}
    assert induced.keys() == {
        None, "random_features", "random_features_worst", "random_directions",
        "random_directions_worst", "difference_in_means", "unrelated_feature", "opposite_sign",
        "reconstruction",
    }  # fmt: skip
    for figure in induced.values():
        assert figure.value is not None and 0 <= figure.value <= 1 and figure.n == 12
    (before,) = rows(found.figures, "baseline_harmful")
    (harmless,) = rows(found.figures, "baseline_harmless")
    assert (before.value, harmless.value) == (1.0, 0.0)
    (p,) = rows(found.figures, "p_value")
    others = found.detail["random_induced"]["random_features"]
    own = induced[None].value
    assert own is not None and p.value == (1 + sum(o >= own for o in others)) / (1 + len(others))
    slices = {f.slice for f in rows(found.figures, "induced", control=None)}
    told = {"kept", "alpha=0.5", "alpha=1", "conditional,last"}
    assert slices | {f"alpha={found.detail['strength']:g}"} >= told
    assert all((f.value is None) == (f.reason is not None) for f in found.figures)


def test_it_can_be_written_and_says_how_it_was_done(found: Findings) -> None:
    json.dumps([found.detail, found.method], allow_nan=False)
    assert {*found.method["refusal_tokens"]} == {"i", "sorry", "no"}
    assert found.method["prompts"]["harmful"] == {"selection": 24, "validation": 8, "test": 12}
    assert [each["feature"] for each in found.detail["features"]] and found.detail["tried"]


def test_nothing_is_suppressed_and_no_harmful_reply_kept_unless_asked(
    found: Findings, trained: Bench
) -> None:
    assert not rows(found.figures, "suppressed") and "suppress" not in found.detail
    said = {p.text for p in gathered(QUICK, builtin=True).harmful["test"]}
    assert not any(text in json.dumps(found.detail) for text in said)
    asked = QUICK.model_copy(update={"suppress": True, "keep_completions": True})
    (other,) = steering.run(asked, fresh(trained)).values()
    suppressed = rows(other.figures, "suppressed")
    assert {f.slice for f in suppressed} >= {"suppress,clamp", "suppress,opposite"}
    assert all(f.slice.startswith("suppress") for f in suppressed)
    assert other.method["suppress"] is True and "suppressed" in other.detail["suppress"]["marked"]
    kept = {each["prompt"] for each in other.detail["harmful_replies"]}
    assert kept == said


def test_an_sae_is_told_the_same_beside_others(found: Findings, trained: Bench) -> None:
    (key, sae), *_ = trained.saes.items()
    other = replace(sae, W_dec=sae.W_dec.flip(0), W_enc=sae.W_enc.flip(1))
    both = steering.run(QUICK, replace(fresh(trained), saes={"other": other, key: sae}))
    assert both[key] == found


def test_no_choice_looks_at_test_prompts(found: Findings, trained: Bench) -> None:
    more = QUICK.model_copy(update={"test": 20})
    (other,) = steering.run(more, fresh(trained)).values()
    for name in ("features", "shortlist", "tried", "validation", "strength"):
        assert other.detail[name] == found.detail[name]


@pytest.mark.parametrize(("enough", "sizes"), [(0.0, {1}), (1.0, {1, 2, 3})])
def test_larger_sets_are_tried_only_where_no_smaller_one_is_enough(
    enough: float, sizes: set[int], trained: Bench
) -> None:
    (sae,) = trained.saes.values()
    weak = QUICK.model_copy(update={"strengths": (0.01,), "enough": enough, "needed": 0.0})
    world = opened(weak, fresh(trained))
    best, every = choice.tried(sae, listed(sae, world.site, weak), weak, world.on)
    assert {len(each.features) for each in every} == sizes
    assert best in every and best.merit == max(each.merit for each in every)


def test_a_transcoder_has_nulls_and_a_reason(trained: Bench) -> None:
    (key,) = trained.saes
    found = steering.run(QUICK, replace(trained, transcoders=frozenset({key})))[key]
    assert found.figures and {f.reason for f in found.figures} == {steering.TRANSCODER}


def test_a_model_that_never_refuses_has_nulls_and_a_reason(trained: Bench) -> None:
    phrases = QUICK.model_copy(update={"phrases": ("nobody says this",)})
    (found,) = steering.run(phrases, fresh(trained)).values()
    assert {f.reason for f in found.figures if f.value is None} == {steering.NEVER}
    assert {f.value for f in found.figures if f.value is not None} == {0.0}


def test_the_strength_is_the_weakest_of_those_with_about_the_best_lead() -> None:
    spec = SteeringStudy()
    curve = {0.25: (0.0, 0.0), 0.5: (0.4, 0.0), 1.0: (0.99, 0.01), 2.0: (1.0, 0.3)}
    finer = {2**-0.5: (0.9, 0.0), 2**-0.25: (0.97, 0.0), 2**0.25: (1.0, 0.05), 2**0.5: (1.0, 0.1)}

    def rates(strengths: Sequence[float]) -> tuple[Any, Any]:
        there = {round(k, 6): v for k, v in {**curve, **finer}.items()}
        pairs = [there[round(s, 6)] for s in strengths]
        own, random = zip(*pairs, strict=True)
        return torch.tensor(own).numpy(), torch.tensor(random).numpy()

    chosen, told = choice.strength_of(spec, rates)
    assert chosen == pytest.approx(2**-0.25)  # within a fiftieth of the best lead, and weakest
    tried = [0.25, 0.5, 0.71, 0.84, 1.0, 1.19, 1.41, 2.0]
    assert [round(each["strength"], 2) for each in told] == tried


def test_random_sets_are_live_others_and_drawn_alike_each_time(trained: Bench) -> None:
    (sae,) = trained.saes.values()
    some = listed(sae, opened(QUICK, fresh(trained)).site, QUICK)
    for size in (1, 3):
        chosen = some.features[:size]
        sets = controls.random_sets(some, chosen, 20, 0)
        assert sets == controls.random_sets(some, chosen, 20, 0) and len(sets) == 20
        assert all(len(set(each)) == size and not {*each} & {*chosen} for each in sets)
        assert {i for each in sets for i in each} <= {*some.live}
    other = controls.unrelated(some, some.features[:1])
    assert other is not None and other in some.live and other not in some.features


class Refusals(JudgeServer):
    """Knows a refusal when it reads one."""

    def reply(self, body: dict[str, Any]) -> str:
        said = body["messages"][1]["content"].rpartition("<reply>")[2]
        return json.dumps({"answers": [int("cannot" in said or "not" in said.split())]})


def test_a_judge_is_asked_about_each_reply_and_paid_once(trained: Bench, tmp_path: Path) -> None:
    server = Refusals("")
    with serving(server) as url:
        by = JudgeSpec(base_url=url, model="m", max_tokens=10_000_000)
        asked = QUICK.model_copy(update={"judge": by})
        bench = replace(trained, cache=tmp_path)
        (found,) = steering.run(asked, fresh(bench)).values()
        count = len(server.asked)
        (again,) = steering.run(asked, fresh(bench)).values()
    assert len(server.asked) == count > 0 and again.figures == found.figures
    judged = {f.slice: f.value for f in rows(found.figures, "judged")}
    assert judged["baseline,harmful"] == 1.0 and judged["baseline,harmless"] == 0.0
    assert found.method["judge_model"] == "m" and url not in json.dumps(found.method)


def test_random_weights_are_no_reason_to_fail(bench: Bench) -> None:
    from sae_cli.lm.load import load_model
    from sae_cli.lm.sites import find_tap
    from sae_cli.spec.stages import ModelSpec

    model = load_model(ModelSpec(builtin="tiny"), torch.device("cpu"))
    draw_anew(model, 0)
    there = replace(bench, model=model, tap=find_tap(model, bench.tap.layer, bench.tap.site))
    (found,) = steering.run(QUICK, fresh(there)).values()
    assert {f.reason for f in found.figures if f.value is None} == {steering.NEVER}


def test_one_that_is_stopped_again_and_again_ends_the_same_and_asks_nothing_twice(
    found: Findings, trained: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"gaps": 0, "said": 0, "harm": 0}
    monkeypatch.setattr(Speaker, "_gaps", counting(Speaker._gaps, asked, "gaps"))
    monkeypatch.setattr(Speaker, "_said", counting(Speaker._said, asked, "said"))
    monkeypatch.setattr(harm, "_asked", counting(harm._asked, asked, "harm"))
    (whole,) = steering.run(QUICK, fresh(trained)).values()
    once, stops, at = dict(asked), 0, fresh(trained)
    assert whole == found and min(once.values()) > 0
    asked.update(dict.fromkeys(asked, 0))
    while True:
        done = sum(asked.values())

        def leave(where: str, done: int = done) -> None:
            if sum(asked.values()) >= done + 7:
                raise Interrupted(where)

        try:
            (stopped,) = steering.run(QUICK, replace(at, leave=leave)).values()
            break
        except Interrupted:
            stops += 1
    assert stops >= sum(once.values()) // 7 - 1 > 3
    assert asked == once and stopped == found


def counting(plain: Any, counts: dict[str, int], name: str) -> Any:
    def counted(*given: Any, **how: Any) -> Any:
        counts[name] += 1
        return plain(*given, **how)

    return counted
