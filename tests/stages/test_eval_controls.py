"""Controls and slices in the record: the form of an SAE's, the same numbers however grouped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judging import BATCHES, Sweep

from sae_cli.lm import masks
from sae_cli.plan.place import folder
from sae_cli.sae.controls import Control
from sae_cli.spec.stages import EvalSpec, MaskSpec
from sae_cli.stages import eval as stage
from sae_cli.stages.eval_controls import TRANSCODER, Controls
from sae_cli.stages.eval_place import Batch, Counts, Place
from sae_cli.stages.eval_sae import Judged
from sae_cli.stages.metrics import METRICS
from sae_cli.stages.scores import Scores

PARTS = {"metrics", "intervals", "tokens", "predictions", "slices"}
ALL = ("neurons", "pca", "random")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    here = Sweep(tmp_path_factory.mktemp("judged"), "eval.controls=[random,pca,neurons]")
    here.train()
    here.run(here.evals)
    return here


def records(sweep: Sweep) -> dict[str, Any]:
    return {
        each.slug: json.loads(file.read_text())
        for each in sweep.evals
        if (file := folder(sweep.workspace, each).path / METRICS).exists()
    }


def values(part: dict[str, Any]) -> dict[str, float | None]:
    return {name: each["value"] for name, each in part["metrics"].items()}


def test_each_sae_has_its_controls_at_its_own_l0(judged: Sweep) -> None:
    for one in judged.evals:
        record = records(judged)[one.slug]
        assert tuple(row["name"] for row in record["controls"]) == ALL
        for row in record["controls"]:
            assert row["of"] == one.deps["train"].key
            assert row.keys() == {"name", "of", "k", "seed", "reason"} | PARTS
            assert values(row).keys() == values(record).keys()
            assert row["slices"].keys() == record["slices"].keys()
            assert (row["seed"] is not None) == (row["name"] == "random")
            if "target" in one.deps:
                assert row["reason"] == TRANSCODER and set(values(row).values()) == {None}
                continue
            l0 = values(record)["l0_v1"]
            assert l0 is not None and row["k"] == int(l0 + 0.5) == values(row)["l0_v1"]
            assert row["reason"] is None and row["tokens"] == record["tokens"]
            assert row["predictions"] == record["predictions"]
            assert values(row)["ce.zero_v1"] == values(record)["ce.zero_v1"]
            assert values(row)["ce.clean_v1"] == values(record)["ce.clean_v1"]
        if "target" not in one.deps:
            fvu = {row["name"]: values(row)["fvu.pooled_v1"] for row in record["controls"]}
            assert fvu["pca"] < fvu["neurons"] < fvu["random"]


def test_saes_of_one_site_and_l0_share_them(judged: Sweep) -> None:
    plainly = [each for each in judged.evals if "target" not in each.deps]
    made, clean, least = judged.forwards()
    rows = {
        (one.deps["cache"].key, row["name"], row["k"])
        for one in plainly
        for row in records(judged)[one.slug]["controls"]
    }
    assert clean == 2 * BATCHES
    assert least == BATCHES * (2 + 2 * 6 + len(judged.evals) + len(rows)) and made >= least


def test_controls_are_the_same_alone_and_in_rounds_and_change_no_sae(
    judged: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = judged.numbers()
    some = judged.evals[:5]
    for each in some[:2]:
        judged.run([each])
    monkeypatch.setattr(stage, "room_for", lambda *_: lambda seats: len(seats) <= 2)
    judged.run(some)
    assert judged.numbers() == together
    assert judged.report.begun[1] == judged.report.at_[-1]


def test_a_record_without_controls_has_the_same_numbers(judged: Sweep) -> None:
    plain = Sweep(judged.root)
    plain.run(plain.evals[:2])
    with_them, without = records(judged), records(plain)
    for one in plain.evals[:2]:
        had = dict(with_them[one.slug])
        assert had.pop("controls") and without[one.slug].pop("controls") == []
        assert had == without[one.slug]


def test_slices_say_what_they_are_of(judged: Sweep) -> None:
    for record in records(judged).values():
        slices = record["slices"]
        kept, loud = slices["kept"], slices["with_outliers"]
        for part in PARTS - {"slices"}:
            assert kept[part] == record[part]
        assert loud["tokens"] == kept["tokens"] + loud["outliers"]
        assert {n for n in loud["metrics"] if n.startswith(("ce", "kl", "top1"))} == set()
        for name in ("special_sources", "special_targets"):
            assert all(n.startswith(("ce", "kl", "top1")) for n in slices[name]["metrics"])
            assert 0 < slices[name]["predictions"] < kept["predictions"]
        # what is not replaced loses less than what is
        assert values(slices["special_sources"])["ce.delta_v1"] < values(kept)["ce.delta_v1"]
        sure = record["intervals"]["fvu.pooled_v1"]
        assert sure["low"] < sure["high"] and sure["n_docs"] > 8


def test_with_the_splice_off_predictions_are_null_everywhere(judged: Sweep) -> None:
    plain = Sweep(judged.root, "eval.splice=false", "eval.controls=[neurons]")
    plain.run(plain.evals[:1])
    (record,) = (records(plain)[each.slug] for each in plain.evals[:1])
    for part in (record, record["controls"][0], record["slices"]["special_targets"]):
        assert part["metrics"]["ce.delta_v1"] == {"value": None, "reason": "eval.splice is off"}
        assert part["intervals"]["ce.delta_v1"]["reason"] == "eval.splice is off"
    assert values(record["controls"][0])["fvu.pooled_v1"] is not None


class Fake:
    mask = MaskSpec()


def test_which_tokens_a_slice_is_of() -> None:
    special, first, loud = masks.SPECIAL, masks.FIRST, masks.OUTLIER
    packed = np.array([[first, 0, special, 0, 0, special]], np.uint8)
    found = packed | np.array([[0, 0, 0, loud, 0, loud]], np.uint8)
    tokens = torch.arange(6)[None]
    site: Any = Fake()
    counts = Counts(Batch(tokens, packed, torch.zeros_like(tokens)), [(site, found)])

    def at(chosen: torch.Tensor) -> list[int]:
        return chosen[0].nonzero()[:, 0].tolist()

    assert at(counts.keep) == [1, 4]
    assert at(counts.outliers) == [3]
    assert at(counts.sources) == [2], "a loud one, or one at the start, is dropped for that"
    assert at(counts.targets) == [1, 4]
    other: Any = Fake()
    both = Counts(
        Batch(tokens, packed, torch.zeros_like(tokens)),
        [(site, found), (other, packed | np.array([[0, loud, 0, 0, 0, 0]], np.uint8))],
    )
    assert (at(both.keep), at(both.outliers)) == ([4], [1, 3])


def test_an_evaluation_without_controls_keeps_its_key(tmp_path: Path) -> None:
    plain, same = Sweep(tmp_path / "a"), Sweep(tmp_path / "b", "eval.controls=[]")
    more = Sweep(tmp_path / "c", "eval.controls=[pca,random]")
    turned = Sweep(tmp_path / "d", "eval.controls=[random,pca,random]")
    keys = [[each.key for each in s.evals] for s in (plain, same, more, turned)]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    trained = [[each.deps["train"].key for each in s.evals] for s in (plain, more)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("l0", "tokens", "reason"),
    [(0.0, True, "the SAE's L0 rounds to 0"), (0.0, False, "no token was kept")],
)
def test_where_there_can_be_no_control_all_is_null_and_says_why(
    judged: Sweep, l0: float, tokens: bool, reason: str
) -> None:
    """All latents dead; an empty mask."""
    d, k = 4, 6
    site: Any = Fake()
    site.mean, site.limit = torch.zeros(d), None
    place = Place(site, site, 1)
    one: Any = Judged.__new__(Judged)
    one.task = judged.task(judged.evals[0], lambda: False)
    Scores.__init__(one, Control(site.mean, torch.eye(k)[:, :d], 1), place)
    n = 9 if tokens else 0
    one.rebuilt.update(torch.ones(n, d), torch.ones(n, d), torch.full((n, k), l0))
    spec = EvalSpec(controls=("neurons",), splice=False)
    unused: Any = None
    controls = Controls(spec, unused, unused, torch.device("cpu"))
    assert controls.beside([one]) == []
    (row,) = controls.records(one)
    assert (row["reason"], row["k"], row["tokens"]) == (reason, None, 0)
    parts = [row, *row["slices"].values()]
    for metric in (m for part in parts for m in part["metrics"].values()):
        assert metric == {"value": None, "reason": reason}


def test_principal_directions_need_no_stored_activations(judged: Sweep, tmp_path: Path) -> None:
    """Freed ones leave their record and statistics; the numbers are the same."""
    shutil.copytree(judged.workspace.root, tmp_path / "store", symlinks=True)
    freed = Sweep(tmp_path, "eval.controls=[random,pca,neurons]")
    one = freed.evals[0]
    shutil.rmtree(folder(freed.workspace, one.deps["cache"]).path / "activations.zarr")
    file = folder(freed.workspace, one).path / METRICS
    before = file.read_bytes()
    file.unlink()
    freed.run([one])
    assert file.read_bytes() == before
