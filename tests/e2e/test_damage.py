"""What a stage is about to read is checked first: damage is told, and harms nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def damage(path: Path) -> None:
    """Change one byte in the middle, leaving size and name."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_a_damaged_sae_is_not_released(warm: Any, small: Path, disk: Any) -> None:
    victim = next(p for p in disk(warm.store).stages("train") if ".topk." in p.name)
    damage(victim / "sae_weights.safetensors")
    run = warm("release", small, "--force", code=1)
    assert str(victim / "sae_weights.safetensors") in run.stderr
    assert "does not match the sha256" in run.stderr and "--force" in run.stderr
    assert "release: " not in run.stdout


def test_a_damaged_sae_fails_its_own_evaluation_and_no_other(
    warm: Any, small: Path, disk: Any
) -> None:
    victim = next(p for p in disk(warm.store).stages("train") if ".topk." in p.name)
    damage(victim / "sae_weights.safetensors")
    run = warm.sweep("eval", small, "--force", "--keep-going", code=1)
    endings = {s["slug"]: s["action"] for s in run["stages"] if s["kind"] == "eval"}
    slug = victim.name.rpartition("-")[0]
    assert endings.pop(slug) == "failed"
    assert len(endings) == 5 and set(endings.values()) == {"done"}


def test_a_damaged_record_is_told_and_made_anew(warm: Any, small: Path, disk: Any) -> None:
    before = disk(warm.store).artefacts("eval")
    victim = disk(warm.store).stages("eval")[0]
    (victim / "done.json").write_text("{")
    assert "damaged" in warm("status", small).stdout
    run = warm.sweep("eval", small)
    assert [s["slug"] for s in run["stages"] if s["action"] == "done"] == [
        victim.name.rpartition("-")[0]
    ]
    assert disk(warm.store).artefacts("eval") == before
