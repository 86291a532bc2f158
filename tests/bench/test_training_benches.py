"""The benches of training run, at sizes that cost little, with and without what they compare with.

How fast anything is, is not asked here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
SIZES = ["--d", "16", "--d-sae", "64", "--k", "4", "--batch", "64", "--rounds", "1"]
NUMBER = r"-?\d+\.\d+"


def bench(script: str, *options: str) -> str:
    """What a bench prints."""
    command = [sys.executable, str(ROOT / "bench" / script), *options]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def pareto(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import pareto

    return pareto


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import train_peers

    return train_peers


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["topk", "jumprelu"])
def test_everyone_asked_for_is_in_the_table_or_said_to_be_left_out(arch: str) -> None:
    asked = ["ours", "ours-bf16", "saelens", "dictionary_learning", "sparsify"]
    said = bench("train_step.py", "--arch", arch, *SIZES, "--no-memory", "--only", *asked)
    for name in asked:
        assert re.search(rf"^{name}(: left out: .+| .*\(.* to .*\).*)$", said, re.MULTILINE), said
    assert re.search(r"^ours .* 1\.00 \(1\.00 to 1\.00\)", said, re.MULTILINE), said
    for floor in ("floor float32", "floor bfloat16"):
        assert re.search(rf"^{floor} .*1\.00 \(1\.00 to 1\.00\)", said, re.MULTILINE), said


@pytest.mark.slow
def test_a_step_of_more_rows_needs_more_memory() -> None:
    def peak(batch: int) -> int:
        sizes = ["--d", "16", "--d-sae", "1024", "--k", "4", "--batch", str(batch)]
        said = bench("train_step.py", *sizes, "--arch", "jumprelu", "--memory-of", "ours")
        return int(said.splitlines()[-1])

    assert peak(8192) > peak(256) + 4 * 16 * 4096 > 0


@pytest.mark.slow
def test_quality_is_told_for_the_better_of_two_rates() -> None:
    def told(*rates: str) -> tuple[float, float, str]:
        said = bench("train_step.py", *SIZES, "--fvu", "60", "--only", "ours", "--lr", *rates)
        found = re.search(rf"^ours +({NUMBER}) +({NUMBER})  (\S+)$", said, re.MULTILINE)
        assert found, said
        return float(found[1]), float(found[2]), found[3]

    slow, good = told("1e-6"), told("1e-6", "1e-2")
    assert good[0] < 0.8 < slow[0] and slow[1:] == (4.0, "1e-06") and good[1:] == (4.0, "0.01")


@pytest.mark.slow
def test_a_grid_is_timed_and_its_bytes_are_counted() -> None:
    sizes = ["--tokens", "8192", "--d-sae", "64", "--batch", "512", "--rounds", "1"]
    said = bench("train_step.py", "--grid", "2", *sizes)
    read = dict(re.findall(rf"^2 (at once|in turn) .* ({NUMBER}) MB read$", said, re.MULTILINE))
    # 8,192 bfloat16 rows of 64, twice, and little beside them
    assert 2.0 < float(read["at once"]) <= float(read["in turn"]) < 8.0, said
    assert re.search(rf"^in turn / at once: {NUMBER} \({NUMBER} to {NUMBER}\) in time", said, re.M)


@pytest.mark.slow
def test_the_pareto_table_holds_every_sae_of_the_sweep(tmp_path: Path) -> None:
    sweep = {
        "name": "small",
        "data": {"tokens": 16384, "heldout_tokens": 2048},
        "train": {"width": 64, "num_tokens": 16384, "batch_size": 512},
        "matrix": {
            "layer": [2], "site": ["resid_post"],
            "sae": [{"arch": "topk", "k": 8}, {"arch": "topk", "k": 2}, {"arch": "relu_l1"}],
        },
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(json.dumps(sweep))
    out = tmp_path / "out.md"
    bench("pareto.py", "--sweep", str(tmp_path / "small.yaml"), "--out", str(out))
    cells = [line.split("|")[1:-1] for line in out.read_text().splitlines() if line[:2] == "| "]
    same, rows = (
        [[cell.strip() for cell in line] for line in cells[n:m]] for n, m in ((1, 3), (4, 7))
    )
    assert [line[0] for line in same] == ["topk", "relu_l1"]
    assert float(rows[1][3]) <= float(same[0][1]) <= float(rows[0][3]), "L0 4 is between 2 and 8"
    assert [row[:2] for row in rows] == [["topk", "k2"], ["topk", "k8"], ["relu_l1", ""]]
    assert float(rows[0][2]) == pytest.approx(2, abs=0.1)
    assert all(0 < float(row[3]) < 2 and float(row[4]) <= 1 for row in rows)


def test_the_same_l0_is_read_off_the_line_between_neighbours(pareto: ModuleType) -> None:
    points = [(16.0, 0.01), (2.0, 0.4), (4.0, 0.1)]
    assert pareto.at_same(points, 8) == pytest.approx((0.1 * 0.01) ** 0.5)
    assert pareto.at_same(points, 4) == pytest.approx(0.1)
    assert pareto.at_same(points, 16.1) == pytest.approx(0.01, rel=0.02)
    assert pareto.at_same(points, 17) is None and pareto.at_same(points, 1) is None


def test_synthetic_rows_are_centred_and_of_one_dictionary(peers: ModuleType) -> None:
    one, other, again = (
        torch.cat(list(islice(peers.drawn(32, 2000, seed=seed), 4))) for seed in (0, 1, 0)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.square().mean() == pytest.approx(1.0, abs=0.05)
    assert float(one.mean(0).norm()) < 0.1 * 32**0.5
    first, second = (torch.linalg.eigh(x.T @ x / len(x)).eigenvectors[:, -3:] for x in (one, other))
    assert float((first.T @ second).square().sum()) > 2.5, "the widest directions are the same"


def test_what_is_not_there_is_missing_and_says_why(peers: ModuleType) -> None:
    setup = peers.Setup("gated", 16, 64, 4, 64, 10)
    with pytest.raises(peers.Missing, match="no gated to compare with"):
        peers.contenders()["ours-bf16"](setup)
    with pytest.raises(peers.Missing, match="nosuch is not installed here: make bench-peers"):
        peers._imported("nosuch", "nosuch.module")
