"""`parallel` from the command line: under torchrun, and with the torchrun that saectl starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

SPEC = """\
name: par
model: tiny
data: {tokens: 8192, heldout_tokens: 1024, context: 64}
train: {width: 64, num_tokens: 5120, batch_size: 512, shuffle_tokens: 2048, log_every: 2}
matrix:
  layer: [1]
  site: [mlp_out]
  sae:
    - {arch: topk, k: 8}
    - {arch: jumprelu, l0: 8}
    - {arch: topk, k: 8, lr: 1e39}
"""
BROKEN = re.compile("is (not finite|nan|inf) ")
TWO = ("--set", "train.parallel={latent: 2}")


class Command:
    """The real command on the sweep, in a workspace of its own."""

    def __init__(self, root: Path) -> None:
        self.spec, self.store = root / "par.yaml", root / "store"
        self.spec.write_text(SPEC)
        self._env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def __call__(self, *words: str, under: tuple[str, ...] = ()) -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, *under, "-m", "sae_cli", "train", *self.words, *words],
            env=self._env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return ended.returncode, ended.stdout + ended.stderr

    @property
    def words(self) -> tuple[str, ...]:
        return (str(self.spec), "--store", str(self.store), "--keep-going")

    def folder(self, name: str) -> Path:
        (found,) = self.store.glob(f"train/*{name}-*")
        return found


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The sweep, whose three SAEs a torchrun of two processes has trained, and all before them."""
    made = Command(tmp_path_factory.mktemp("par"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    made.answer = made(*TWO, under=launcher)  # type: ignore[attr-defined]
    yield made


@pytest.mark.slow
def test_torchruns_processes_do_a_sweep_and_one_saes_failure_is_its_own(command):
    code, said = command.answer
    assert code == 1, said
    assert BROKEN.search(said), said
    for name in ("topk.w64.k8", "jumprelu.w64.l0_8"):
        done = json.loads((command.folder(name) / "done.json").read_text())
        assert done["summary"]["parallel"] == {"data": 1, "latent": 2, "processes": 2}
        assert not (command.folder(name) / "claim").exists()
    ill = command.folder("topk.w64.k8.lr*")
    assert BROKEN.search(json.loads((ill / "failed.json").read_text())["cause"])
    assert not list(ill.glob("work/*.safetensors"))


@pytest.mark.slow
def test_without_torchrun_saectl_starts_it_and_the_sae_is_the_same(command):
    where = command.folder("jumprelu.w64.l0_8")
    before = load_file(where / "sae_weights.safetensors")
    only = ("--only", "*jumprelu*", "--only", "*lr1e39*")
    code, said = command(*TWO, *only, "--force")
    assert code == 1 and "torchrun starts 2 processes for train/" in said, said
    assert BROKEN.search(said) and "Traceback" not in said, said
    after = load_file(where / "sae_weights.safetensors")
    assert all(after[part].equal(tensor) for part, tensor in before.items())


@pytest.mark.slow
def test_what_ends_a_wide_pass_is_what_its_record_says(command):
    """Nothing can be written where the curves go: an error that only rank 0 meets."""
    shorter = (
        *TWO,
        "--set",
        "train.num_tokens=4096",
        "--only",
        "*topk.w64.k8-*",
        "--only",
        "*l0_8*",
    )
    code, planned = command(*shorter, "--dry-run", "--json")
    assert code == 0, planned
    (sweep,) = json.loads(planned)["sweeps"]
    places = [Path(stage["path"]) for stage in sweep["stages"] if stage["kind"] == "train"]
    assert len(places) == 2
    for place in places:
        (place / "metrics.jsonl").mkdir(parents=True)
    code, said = command(*shorter)
    assert code == 1 and "trying it alone" not in said, said
    for place in places:
        assert "metrics.jsonl" in json.loads((place / "failed.json").read_text())["cause"]


@pytest.mark.parametrize(("there", "parallel"), [("3", "{latent: 2}"), ("2", "{data: 1}")])
def test_a_torchrun_of_another_size_is_refused_before_anything_starts(
    there, parallel, saectl, tmp_path, monkeypatch
):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", there)
    made = Command(tmp_path)
    answer = saectl("train", *made.words, "--set", f"train.parallel={parallel}")
    wanted = 2 if "latent" in parallel else 1
    assert answer.code == 2
    assert f"is for {wanted} processes (train.parallel), and torchrun started {there}" in answer.err
    assert not list(made.store.glob("tokens/*"))
