"""A checkpoint is the old one or the new one, whatever ends the process that writes it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_cli.errors import StoreError
from sae_cli.stages import grid_state
from sae_cli.stages.grid_state import read_state, write_state

SCALARS = {"arch": "topk", "step": 3, "tokens": 12, "name": "ü"}


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        "since_fired": torch.arange(5),
        "param.enc": torch.full((3, 4), value).T,  # not contiguous
        "fired": torch.tensor([True, False, True]),
        "adam.enc.step": torch.tensor(7.0),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "none": torch.empty(0, 4),
        "exact": torch.tensor([1.0], dtype=torch.float64),
    }


def test_what_is_written_is_read_again_and_by_safetensors_too(tmp_path):
    path = tmp_path / "work" / "state.safetensors"
    assert read_state(path) is None
    write_state(path, tensors(), SCALARS)
    found = read_state(path)
    assert found is not None and found[1] == SCALARS
    for read in (found[0], load_file(path)):
        assert read.keys() == tensors().keys()
        for name, tensor in tensors().items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


def test_the_same_state_gives_the_same_bytes(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write_state(a, tensors(), SCALARS)
    write_state(b, dict(reversed(tensors().items())), SCALARS)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("pieces", range(9))
def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, pieces):
    """Killed after the header, after any of the seven tensors, and after the last."""
    path = tmp_path / "state.safetensors"
    write_state(path, tensors(1.0), SCALARS)
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        written = 0
        append = grid_state._append

        def counted(handle: int, tensor: torch.Tensor) -> None:
            nonlocal written
            if written == pieces:
                os.kill(os.getpid(), signal.SIGKILL)
            append(handle, tensor)
            written += 1

        grid_state._append = counted
        write_state(path, tensors(2.0), SCALARS)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if pieces < len(tensors()):
        assert status == -signal.SIGKILL and path.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 2, "the old one, and what was begun"
    else:
        assert status == 0 and path.read_bytes() != before
    write_state(path, tensors(3.0), SCALARS)
    assert list(tmp_path.iterdir()) == [path], "nothing of the killed one is left"
    found = read_state(path)
    assert found is not None and float(found[0]["param.enc"][0, 0]) == 3.0


def test_a_full_disk_keeps_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    write_state(path, tensors(1.0), SCALARS)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(grid_state, "_append", full)
    with pytest.raises(StoreError, match="No space left"):
        write_state(path, tensors(2.0), SCALARS)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"not a state", None])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, damage: bytes | None):
    path = tmp_path / "state.safetensors"
    write_state(path, tensors(), SCALARS)
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    with pytest.raises(StoreError, match=r"state\.safetensors is no training state"):
        read_state(path)
