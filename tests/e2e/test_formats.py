"""The real command releases one suite in six formats, and each peer's own loader rebuilds real
activations from its files as the SAEs of the release do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doors
import peers
import pytest
import torch
from realcommand import Disk, Saectl

from sae_cli.sae.base import SAE
from sae_cli.store.acts.array import ActivationReader
from sae_cli.store.weights import load_sae

WRITTEN = {name: count for name, count in doors.WRITTEN.items() if name != "saelens"}
"""SAELens' layout is that of the release itself."""


@pytest.fixture(scope="module")
def store(command: Callable[[Path], Saectl], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the sweep ran. Don't change it."""
    folder = tmp_path_factory.mktemp("doors")
    (folder / "doors.yaml").write_text(doors.SWEEP)
    command(folder / "store")("run", folder / "doors.yaml")
    return folder / "store"


@pytest.fixture(scope="module")
def suite(store: Path) -> Path:
    """The release."""
    (stage,) = Disk(store).stages("release")
    return stage / "doors"


def rows(store: Path, layer: int, site: str) -> torch.Tensor:
    """The stored activations of a site that count, float32 [n, d]."""
    (stage,) = store.glob(f"cache/*.L{layer}.{site}-*")
    reader = ActivationReader(stage)
    every = torch.cat([reader.chunk(k) for k in range(reader.n_chunks)])
    return every[torch.from_numpy(reader.keep())].float()[:2000]


def test_manifest_and_card_say_what_is_there_and_what_is_not(store: Path, suite: Path) -> None:
    Disk(store).verify("release")
    manifest = json.loads((suite / "manifest.json").read_text())
    assert {n: len(a["checked"]) for n, a in manifest["formats"].items()} == WRITTEN
    saes = {p.parent.name for p in suite.glob("*/cfg.json")}
    assert len(saes) == 6
    for account in manifest["formats"].values():
        assert account["checked"].keys() | account["refused"].keys() == saes
        for found in account["checked"].values():
            assert found["l0"] == found["l0_there"] > 0 and found["rows_on_a_boundary"] == 0
            assert found["max_difference"] < 1e-6
            assert any(name.startswith(found["folder"] + "/") for name in manifest["files"])
    record = json.loads(next(suite.glob("formats/sparsify/*/saectl.json")).read_text())
    assert record["metadata"]["saectl"]["mask"]["first_positions"] == 1, "which tokens count"
    card = (suite / "README.md").read_text()
    for name, count in WRITTEN.items():
        assert re.search(rf"\[{name}\]\(formats/{name}\) \| {count} \| \d", card), name
    assert "3: circuit-tracer takes transcoders alone" in card


@pytest.mark.peers
@pytest.mark.parametrize("name", ["sparsify", "dictionary_learning", "circuit-tracer"])
def test_the_peers_loader_rebuilds_real_activations(
    name: str, store: Path, suite: Path, tmp_path: Path
) -> None:
    peers.needs(name)
    checked = json.loads((suite / "manifest.json").read_text())["formats"][name]["checked"]
    asked, seen = peers.Peers(tmp_path), []
    for sae, found in checked.items():
        held = load_sae(suite / sae)
        record = held.cfg["metadata"]["saectl"]
        x = rows(store, record["layer"], record["site"])
        asked.ask(name, suite / found["folder"], x)
        layer = str(record["layer"]) if name == "circuit-tracer" else ""
        seen.append((SAE.from_tensors(held.tensors, held.arch, held.k), x, layer))
    for (ours, x, layer), answer in zip(seen, asked.answers(), strict=True):
        compared(ours, x, answer[f"f{layer}"], answer[f"out{layer}"])


def compared(ours: SAE, x: torch.Tensor, f: torch.Tensor, out: torch.Tensor) -> None:
    """The same latents, but for a value that rounding carries over its boundary now and then."""
    wanted = ours.encode(x)
    differ = (f > 0) != (wanted > 0)
    assert float(differ.float().mean()) < 1e-5
    same = ~differ.any(1)
    scale: Any = float(wanted.max())
    torch.testing.assert_close(f[same], wanted[same], rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(out[same], ours(x)[same], rtol=0, atol=1e-5 * scale)


def test_a_format_that_can_hold_nothing_ends_the_run_before_anything_is_released(
    small: Path, warm: Any
) -> None:
    only = ("--set", "release.formats=[circuit-tracer]", "--only", "release")
    failed = warm("run", small, *only, code=1)
    assert "circuit-tracer can hold none of these SAEs" in failed.stderr
    assert "take circuit-tracer out of release.formats" in failed.stderr
    (stage,) = (p for p in Disk(warm.store).stages("release") if not (p / "done.json").exists())
    assert not (stage / "small").exists()
