"""Heads of files say what tensors they hold; a file that would run code is refused unread."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_cli.errors import StoreError
from sae_cli.store.formats.coder import read_pt
from sae_cli.store.formats.heads import shapes

TENSORS = {"W": torch.zeros(3, 4), "b": torch.zeros(4).bfloat16(), "k": torch.tensor(3)}
SHAPES = {"W": (3, 4), "b": (4,), "k": ()}


def test_the_shapes_in_every_kind_of_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert shapes(tmp_path / "a.safetensors") == SHAPES
    torch.save(TENSORS, tmp_path / "b.pt")
    assert shapes(tmp_path / "b.pt") == SHAPES
    torch.save(OrderedDict(TENSORS), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    assert shapes(tmp_path / "c.pt") == SHAPES
    module = torch.nn.Linear(2, 5)
    torch.save(dict(module.named_parameters()), tmp_path / "d.pt")
    assert shapes(tmp_path / "d.pt") == {"weight": (5, 2), "bias": (5,)}
    torch.save(module.state_dict(), tmp_path / "d.pt")  # it carries what torch notes of versions
    assert shapes(tmp_path / "d.pt") == {"weight": (5, 2), "bias": (5,)}
    np.savez(tmp_path / "e.npz", W=np.zeros((3, 4)), k=np.array(3))
    assert shapes(tmp_path / "e.npz") == {"W": (3, 4), "k": ()}


class Evil:
    """What leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_named_and_never_run(legacy: bool, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "ae.pt"
    torch.save({"W": Evil(mark)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(StoreError, match=r"holds (posix|nt)\.mkdir.*nothing in it was run"):
        shapes(file)
    with pytest.raises(StoreError):
        read_pt(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)  # it would have
    assert mark.exists()


def test_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    for content, said in (
        (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        ({"W": torch.zeros(2), "cfg": {"lr": 1.0}}, "cfg, a dict"),
        ([torch.zeros(2)], "a list"),
    ):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(StoreError, match=said):
            shapes(tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", W=np.array([{}], dtype=object))
    with pytest.raises(StoreError, match="Python objects"):
        shapes(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.pt", "a.npz", "a.safetensors"])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no zip", b"\xff" * 64, b"{}"])
def test_a_damaged_file_is_told_as_such(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        shapes(tmp_path / name)


def test_a_file_that_is_not_there_or_of_no_such_kind(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't read"):
        shapes(tmp_path / "gone.pt")
    with pytest.raises(StoreError, match="is no file of tensors"):
        shapes(tmp_path / "a.bin")
