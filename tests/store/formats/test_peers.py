"""What we write, each peer's own loader reads, and computes what we compute.

sparsify, dictionary_learning and circuit-tracer are asked in an interpreter of their own (`peers`).
SAELens, which is here, is asked for Gemma-Scope and Qwen-Scope: its loaders of those take files
from the hub's cache, which these tests fill, so that nothing of them is replaced.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import peers
import pytest
import torch
from sparsecoders import D_IN, D_SAE, LAYER, coder, inputs, ours
from torch import Tensor

from sae_cli.store.formats.coder import Coder
from sae_cli.store.formats.registry import FORMATS

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
REVISION = "0" * 40


def agree(given: Coder, f: Tensor, out: Tensor, x: Tensor) -> None:
    sae = ours(given)
    wanted = sae.encode(x)
    assert float((wanted > 0).sum()) > 0
    assert torch.equal((f != 0).sum(1), (wanted != 0).sum(1))
    torch.testing.assert_close(f, wanted, rtol=0, atol=3e-5)
    torch.testing.assert_close(out, sae(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "coders"),
    [
        (
            "sparsify",
            [
                coder("topk"),
                coder("topk", out_site="mlp_out"),
                coder("topk", out_site="mlp_out", skip=True),
            ],
        ),
        ("dictionary_learning", [coder("topk"), coder("relu_l1"), coder("jumprelu")]),
    ],
    ids=["sparsify", "dictionary_learning"],
)
def test_the_peers_loader_computes_what_we_compute(
    name: str, coders: list[Coder], tmp_path: Path
) -> None:
    peers.needs(name)
    asked = peers.Peers(tmp_path)
    for i, given in enumerate(coders):
        FORMATS[name].write(given, tmp_path / f"sae{i}")
        asked.ask(name, tmp_path / f"sae{i}", inputs())
    for given, answer in zip(coders, asked.answers(), strict=True):
        agree(given, answer["f"], answer["out"], inputs())


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_circuit_tracer_loads_a_set_of_transcoders(skip: bool, tmp_path: Path) -> None:
    peers.needs("circuit-tracer")
    arch = ("jumprelu", "relu_l1", "jumprelu")
    layers = [coder(a, out_site="mlp_out", skip=skip, layer=i, seed=i) for i, a in enumerate(arch)]
    for given in layers:
        FORMATS["circuit-tracer"].write(given, tmp_path / "set")
    asked = peers.Peers(tmp_path)
    asked.ask("circuit-tracer", tmp_path / "set", inputs())
    (answer,) = asked.answers()
    for i, given in enumerate(layers):
        agree(given, answer[f"f{i}"], answer[f"out{i}"], inputs())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, with no network behind it."""
    from huggingface_hub import constants, file_download

    for module in (constants, file_download):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(hub: Path, repository: str, files: Path, place: str) -> None:
    """Put files into the hub's cache as if they had been downloaded."""
    entry = hub / f"models--{repository.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(REVISION)
    shutil.copytree(files, entry / "snapshots" / REVISION / place)


SIZES = {"d_in": D_IN, "d_sae": D_SAE}


@pytest.mark.parametrize("arch", ["jumprelu", "relu_l1"])
def test_saelens_loads_gemma_scope_files(arch: str, tmp_path: Path, hub: Path) -> None:
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    repository, place = "google/gemma-scope-2b-pt-res", "layer_3/width_16k/average_l0_9"
    FORMATS["gemma-scope"].write(coder(arch), tmp_path / "sae")
    cached(hub, repository, tmp_path / "sae", place)

    def load(cfg_overrides: dict[str, object], **given: object) -> object:
        return loaders.gemma_2_sae_huggingface_loader(
            **given, cfg_overrides={**cfg_overrides, **SIZES}
        )

    sae = SAE.from_pretrained(repository, place, converter=load)
    assert type(sae).__name__ == "JumpReLUSAE"
    agree(coder(arch), sae.encode(inputs()), sae(inputs()), inputs())


def test_saelens_loads_qwen_scope_files(tmp_path: Path, hub: Path) -> None:
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    repository = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_9"
    FORMATS["qwen-scope"].write(coder("topk"), tmp_path / "sae")
    cached(hub, repository, tmp_path / "sae", "")

    def load(cfg_overrides: dict[str, object], **given: object) -> object:
        return loaders.qwen_scope_sae_huggingface_loader(
            **given, cfg_overrides={**cfg_overrides, **SIZES}
        )

    sae = SAE.from_pretrained(repository, f"layer{LAYER}.sae.pt", converter=load)
    assert (type(sae).__name__, sae.cfg.k) == ("TopKSAE", coder("topk").k)
    agree(coder("topk"), sae.encode(inputs()), sae(inputs()), inputs())
