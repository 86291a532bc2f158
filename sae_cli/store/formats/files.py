"""Which files of a folder are one SAE's, in each format: what is hashed, and what must be there.

No torch: plans ask this. A record of ours (`coder.write_record`) counts where it is there, since
`read` heeds it; cards and statistics beside an SAE do not.
"""

from __future__ import annotations

from pathlib import Path

from sae_cli.errors import StoreError
from sae_cli.spec.stages import ReleaseFormat
from sae_cli.store.digests import digest_of

_FILES: dict[ReleaseFormat, tuple[tuple[str, ...], str | None]] = {
    "saelens": (("cfg.json", "sae_weights.safetensors"), None),
    "sparsify": (("cfg.json", "sae.safetensors"), "saectl.json"),
    "dictionary_learning": (("config.json", "ae.pt"), "saectl.json"),
    "qwen-scope": (("layer{}.sae.pt",), "layer{}.saectl.json"),
    "gemma-scope": (("params.npz",), "saectl.json"),
    "circuit-tracer": (("config.yaml", "layer_{}.safetensors"), "saectl_layer_{}.json"),
}
"""What must be there, and our record; `{}` is the layer."""
BY_LAYER: frozenset[ReleaseFormat] = frozenset({"qwen-scope", "circuit-tracer"})
"""Formats that have the SAEs of several layers in one folder."""


def files_of(form: ReleaseFormat, folder: Path, layer: int) -> list[Path]:
    """The files of one SAE. Raises StoreError, naming what is missing."""
    needed, record = _FILES[form]
    found = [folder / name.format(layer) for name in needed]
    missing = [path.name for path in found if not path.is_file()]
    if missing:
        raise StoreError(f"{folder} is no {form} folder{_of(form, layer)}: it has no {missing[0]}")
    beside = folder / str(record).format(layer)
    return [*found, beside] if record is not None and beside.is_file() else found


def sae_digest(form: ReleaseFormat, folder: Path, layer: int) -> str:
    """sha256 over the SAE's files. Raises StoreError when one is missing or can't be read."""
    return digest_of((path.name, path) for path in files_of(form, folder, layer))


def weights_of(form: ReleaseFormat, folder: Path, layer: int) -> Path:
    """The file that holds its tensors."""
    return folder / _FILES[form][0][-1].format(layer)


def _of(form: ReleaseFormat, layer: int) -> str:
    return f" with layer {layer}" if form in BY_LAYER else ""
