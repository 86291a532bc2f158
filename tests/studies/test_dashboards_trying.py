"""Steering while one looks: what a page is told is what plain forwards with the edit say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from studying import SPEC, Studied

from sae_cli.errors import DataError
from sae_cli.lm.encode import end_of_text
from sae_cli.lm.sites import find_tap
from sae_cli.lm.splice import editing, forward_logits
from sae_cli.plan.place import folder
from sae_cli.store.atomic import read_json
from sae_cli.studies.dashboards.trying import Trials
from sae_cli.studies.watch.live import Live, Reader

QUICK = ("data.tokens=8192", "data.heldout_tokens=8192", "train.width=64", "train.num_tokens=4096",
         "train.batch_size=512", "train.shuffle_tokens=1024")  # fmt: skip
TEXT = "the cook bakes the pies . the climber"


TRANSCODER = SPEC.replace(
    "matrix: {layer: [2], site: [resid_post], k: [8]}",
    "matrix: {include: [{layer: 2, site: mlp_in, out_site: mlp_out, arch: topk, k: 8}]}",
)


@pytest.fixture(scope="module", params=[SPEC, TRANSCODER], ids=["an SAE", "a transcoder"])
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An SAE's folder, its record, its model, its norm limit."""
    studied = Studied(tmp_path_factory.mktemp("tried"), *QUICK, spec=request.param)
    (train,) = studied.graph.of("train")
    place = folder(studied.workspace, train).path
    own = read_json(place / "cfg.json")["metadata"]["saectl"]
    return place, own, train.deps["cache"].work.model, None


@pytest.fixture(scope="module")
def live(there: Any) -> Live:
    place, own, model, limit = there
    return Live(Reader(model), place, own, limit)


@pytest.fixture(scope="module")
def trials(there: Any) -> Trials:
    return Trials({"it": there})


def plainly(live: Live, ids: torch.Tensor, feature: int, strength: float, n: int) -> list[int]:
    """Token by token, each a whole forward, with the edit spelled out."""
    model, row = live.reader.model, live.sae.W_dec[feature]
    seen: dict[str, torch.Tensor] = {}

    def look(x: torch.Tensor) -> torch.Tensor:
        seen["latent"] = live.sae.encode(x)[0, :, feature]
        return x

    def edit(x: torch.Tensor) -> torch.Tensor:
        if not live.transcodes:
            look(x)
        out = x.clone()
        for t in range(1, x.shape[1]):
            out[0, t] += (strength - seen["latent"][t]) * row
        return out

    site = live.own.get("out_site") or live.own["site"]
    tap = find_tap(model, live.own["layer"], site)
    whole = ids
    for _ in range(n):
        if live.transcodes:
            with editing(model, live.tap, look):
                logits = forward_logits(model, whole, tap=tap, edit=edit)
        else:
            logits = forward_logits(model, whole, tap=tap, edit=edit)
        whole = torch.cat([whole, logits[:, -1:].argmax(-1)], 1)
        if int(whole[0, -1]) == end_of_text(live.reader.tokenizer):
            break
    found: list[int] = whole[0, ids.shape[1] :].tolist()
    return found


def test_the_steered_text_is_that_of_plain_forwards_with_the_edit(
    live: Live, trials: Trials
) -> None:
    ids = live.reader.ids(TEXT)
    latents = live.read(ids).latents
    feature = int(latents.sum(0).argmax())
    moved = 0
    for strength in (0.0, float(latents[:, feature].max()), 60.0, -60.0):
        asked = {"sae": "it", "text": TEXT, "feature": feature, "strength": strength, "tokens": 10}
        said = trials.answer("steer", asked)
        wanted = plainly(live, ids, feature, strength, 10)
        tokenizer = live.reader.tokenizer
        assert "".join(said["steered"]).split() == tokenizer.decode(wanted).split()
        moved += said["steered"] != said["plain"]
        assert said["values"] == pytest.approx(latents[1:, feature].tolist())
    assert moved


def test_what_fires_on_each_token_is_told_strongest_first(live: Live, trials: Trials) -> None:
    said = trials.answer("read", {"sae": "it", "text": TEXT})
    latents = live.read(live.reader.ids(TEXT)).latents[1:]
    assert "".join(said["words"]).split() == TEXT.split()
    for token, fired in enumerate(said["fired"]):
        assert dict(fired) == pytest.approx(
            {int(f): float(latents[token, f]) for f in latents[token].nonzero()[:, 0]}
        )
        assert [v for _, v in fired] == sorted((v for _, v in fired), reverse=True)


@pytest.mark.parametrize(
    "change",
    [{"sae": "other"}, {"sae": None}, {"text": 3}, {"text": ""}, {"feature": 64}, {"feature": -1},
     {"feature": "1"}, {"strength": "much"}, {"strength": True}, {"strength": float("nan")},
     {"tokens": 0}, {"tokens": 10**6}, {"text": "the " * 5000}],
)  # fmt: skip
def test_what_can_t_be_answered_is_refused(trials: Trials, change: dict[str, Any]) -> None:
    asked = {"sae": "it", "text": "the cook", "feature": 1, "strength": 1.0, "tokens": 4}
    assert trials.answer("steer", asked)
    with pytest.raises(DataError):
        trials.answer("steer", asked | change)
