"""docs/store.md tells the truth: its code runs, and its numbers are the code's."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_cli.lm import masks
from sae_cli.store.acts.array import ActivationReader, ArrayPlan, finish
from sae_cli.store.acts.encodings import Encoding
from sae_cli.store.acts.moments import row_length
from sae_cli.store.acts.norms import BINS
from sae_cli.store.acts.recorder import Recorder
from sae_cli.store.blocks import BlockWriter

PAGE = Path(__file__).parents[2] / "docs" / "store.md"
ROWS, D, CONTEXT = 1500, 70, 10
PLACES: dict[Encoding, str] = {
    "bfloat16": "store/cache/tiny.l1.resid_post-8c2f3a1b",
    "int8": "store/cache/tiny.l2.resid_post-90ab12cd",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stages that the page reads."""
    root = tmp_path_factory.mktemp("workspace")
    x = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(0))
    dropped = (np.arange(ROWS) % 4 == 0).astype(np.uint8)
    for encoding, place in PLACES.items():
        with Recorder(root / place, ArrayPlan(ROWS, D, 256, 1024, encoding)) as recorder:
            recorder.put(0, x, dropped)
            recorder.drain()
        finish(root / place)
    n = ROWS // CONTEXT
    with BlockWriter(root / "store/tokens/tiny-8c2f3a1b", CONTEXT, {"train": n}, n) as writer:
        ids = np.arange(ROWS, dtype=np.int32).reshape(n, CONTEXT)
        writer.write("train", ids, ids.astype(np.int64), ids, np.zeros_like(ids, np.uint8))
    return root


def rows(workspace: Path, encoding: Encoding, start: int, stop: int) -> np.ndarray[Any, Any]:
    reader = ActivationReader(workspace / PLACES[encoding])
    found = torch.cat([reader.chunk(k) for k in range(reader.n_chunks)])[start:stop]
    return found.float().numpy()


def run(code: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(workspace)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")
        exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_the_examples_read_the_documented_numbers(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_zarr, by_xarray, by_numpy, by_formula = blocks("python")
    wanted = rows(workspace, "bfloat16", 1000, 1010)
    counts = np.arange(1000, 1010) % 4 != 0
    said = run(by_zarr, workspace, monkeypatch)
    np.testing.assert_array_equal(said["some"], wanted)
    np.testing.assert_array_equal(said["kept"], wanted[counts])
    assert said["about"]["encoding"] == "bfloat16"
    said = run(by_xarray, workspace, monkeypatch)
    np.testing.assert_array_equal(said["kept"], wanted[counts])
    assert said["tokens"].tolist() == list(range(1000, 1010))
    said = run(by_numpy, workspace, monkeypatch)
    np.testing.assert_array_equal(said["acts"], rows(workspace, "bfloat16", 0, 1024))
    said = run(by_formula, workspace, monkeypatch)
    np.testing.assert_array_equal(said["acts"], rows(workspace, "int8", 1000, 1010))


def test_each_example_is_ten_lines_at_most() -> None:
    for code in blocks("python"):
        assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_bits_of_the_mask_are_the_codes() -> None:
    bits = {name: int(bit) for bit, name in re.findall(r"\| (\d) \| `(\w+)` \|", PAGE.read_text())}
    assert bits == {name: getattr(masks, name) for name in ("SPECIAL", "FIRST", "OUTLIER", "ROLE")}


def test_a_row_of_statistics_has_the_documented_length() -> None:
    text = PAGE.read_text()
    assert f"[shards, {row_length(0):,} + 2d]" in text and row_length(7) == row_length(0) + 14
    assert f"({BINS:,} bins" in " ".join(text.split())


def test_the_tree_names_the_files_that_are_there(workspace: Path) -> None:
    (tree, *_) = blocks("text")
    named = {name.split(".")[0] for name in re.findall(r"[\w.]+", tree)}
    found = [path for place in PLACES.values() for path in (workspace / place).rglob("*")]
    assert found and {path.name.split(".")[0] for path in found} <= named
