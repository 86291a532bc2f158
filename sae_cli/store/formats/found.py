"""Which SAEs a folder and those in it hold, of which format, from names and heads of files alone.

A folder is of a format when the files that make one are there. What is known to have no counterpart
here is found too, with the reason, so that nobody wonders where it went. No torch, no weights: the
whole of a file is read, and checked, when it is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sae_cli.errors import StoreError
from sae_cli.spec.stages import ReleaseFormat
from sae_cli.store.atomic import explained, read_json
from sae_cli.store.formats.files import BY_LAYER, files_of, weights_of
from sae_cli.store.formats.heads import Shapes, shapes
from sae_cli.store.formats.said import Said, by_folders, by_metadata, by_module, k_by_folders
from sae_cli.store.sae_names import NAMES, TRANSCODERS

CLASSES = {
    "AutoEncoderTopK": "topk",
    "AutoEncoder": "relu_l1",
    "AutoEncoderNew": "relu_l1",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
    "JumpReluAutoEncoder": "jumprelu",
}
"""dictionary_learning's classes, and what is stored here."""
_MARKS: dict[str, ReleaseFormat] = {
    "sae_weights.safetensors": "saelens",
    "sae.safetensors": "sparsify",
    "ae.pt": "dictionary_learning",
    "params.npz": "gemma-scope",
}
_LAYERS: dict[ReleaseFormat, re.Pattern[str]] = {
    "qwen-scope": re.compile(r"layer(\d+)\.sae\.pt"),
    "circuit-tracer": re.compile(r"layer_(\d+)\.safetensors"),
}
_WEIGHTS = (".safetensors", ".pt", ".pth", ".npz", ".bin", ".ckpt")


@dataclass(frozen=True)
class Found:
    """An SAE or transcoder in a folder, by its files' heads."""

    format: ReleaseFormat
    folder: Path
    file_layer: int | None
    """Of a format that has several layers in a folder."""
    said: Said = field(default_factory=Said)
    width: int = 0
    d_in: int = 0
    d_out: int = 0
    function: str = ""
    """topk, relu_l1 or jumprelu."""
    k: int | None = None
    transcodes: bool = False
    skip: bool = False
    trouble: str | None = None
    """Why it can't be imported; then no size counts."""


@dataclass
class _Head:
    """What a format's own part of the reading says."""

    function: str
    weights: tuple[str, str]
    """Names of encoder and decoder."""
    rows: tuple[bool, bool]
    """Whether a row of each is a latent."""
    said: Said = field(default_factory=Said)
    k: int | None = None
    transcodes: bool = False


def search(root: Path) -> list[Found]:
    """The SAEs in `root` and the folders in it (hidden ones apart), by their paths."""
    return [_read(form, folder, layer) for form, folder, layer in sorted(_places(root), key=_order)]


def strangers(root: Path) -> list[Path]:
    """Files of weights that belong to no format, as paths within `root`."""
    return [
        path.relative_to(root)
        for path in _visible(root)
        if path.suffix in _WEIGHTS
        and path.name not in _MARKS
        and not any(pattern.fullmatch(path.name) for pattern in _LAYERS.values())
    ]


def _order(place: tuple[ReleaseFormat, Path, int | None]) -> tuple[Any, ...]:
    form, folder, layer = place
    numbered = re.sub(r"\d+", lambda found: found[0].zfill(8), str(folder))
    return form, numbered, layer or 0


def _visible(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(root).parts):
            yield path


def _places(root: Path) -> Iterator[tuple[ReleaseFormat, Path, int | None]]:
    for path in _visible(root):
        if path.name in _MARKS:
            yield _MARKS[path.name], path.parent, None
        for form, pattern in _LAYERS.items():
            if found := pattern.fullmatch(path.name):
                yield form, path.parent, int(found[1])


def _read(form: ReleaseFormat, folder: Path, layer: int | None) -> Found:
    try:
        files_of(form, folder, layer or 0)
        tensors = shapes(weights_of(form, folder, layer or 0))
        head = _HEADS[form](folder, layer or 0, tensors)
        sizes = [_matrix(tensors, *each) for each in zip(head.weights, head.rows, strict=True)]
        (width, d_in), (others, d_out) = sizes
        if width != others:
            raise StoreError(f"{folder} has {width} latents to encode and {others} to decode")
        if head.function == "topk" and head.k is None:
            raise StoreError(f"{folder} does not say k, the number of active latents")
    except StoreError as error:
        return Found(form, folder, layer, trouble=error.what)
    own = Said(layer=layer) if form in BY_LAYER else Said()
    return Found(
        format=form,
        folder=folder,
        file_layer=layer,
        said=own.filled(head.said).filled(by_folders(folder)),
        width=width,
        d_in=d_in,
        d_out=d_out,
        function=head.function,
        k=head.k if head.function == "topk" else None,
        transcodes=head.transcodes,
        skip="W_skip" in tensors,
    )


def _matrix(tensors: Shapes, name: str, by_latent: bool) -> tuple[int, int]:
    """Latents, and dimensions of the activations."""
    found = tensors.get(name)
    if found is None or len(found) != 2:
        raise StoreError(f"no matrix {name}: there are {', '.join(sorted(tensors))}")
    return found if by_latent else (found[1], found[0])


def _saelens(folder: Path, layer: int, tensors: Shapes) -> _Head:
    cfg = _object(folder / "cfg.json")
    architecture = cfg.get("architecture")
    if architecture not in NAMES:
        raise StoreError(f"nothing here computes {architecture!r} ({', '.join(sorted(NAMES))})")
    if cfg.get("normalize_activations", "none") not in (None, "none"):
        raise StoreError(
            f"it has normalize_activations: {cfg['normalize_activations']!r}, and does not hold "
            "what to normalise with"
        )
    return _Head(
        NAMES[architecture],
        ("W_enc", "W_dec"),
        (False, True),
        by_metadata(cfg.get("metadata") or cfg),
        int(cfg.get("k", 100)),  # SAELens's default
        architecture in TRANSCODERS.values(),
    )


def _sparsify(folder: Path, layer: int, tensors: Shapes) -> _Head:
    cfg = _object(folder / "cfg.json")
    for name, ours in (("activation", "topk"), ("multi_topk", False)):
        if cfg.get(name, ours) != ours:
            raise StoreError(f"it has {name}: {cfg[name]!r}, which nothing here computes")
    transcodes = bool(cfg.get("transcode"))
    said = _recorded(folder / "saectl.json")
    return _Head(
        "topk",
        ("encoder.weight", "W_dec"),
        (True, True),
        said.filled(by_module(folder.name, transcodes=transcodes)),
        int(cfg.get("k", 32)),
        transcodes,
    )


def _dictionary_learning(folder: Path, layer: int, tensors: Shapes) -> _Head:
    config = _object(folder / "config.json")
    trainer, buffer = config.get("trainer") or {}, config.get("buffer") or {}
    kind = trainer.get("dict_class")
    if kind not in CLASSES:
        raise StoreError(f"nothing here computes a {kind} ({', '.join(CLASSES)})")
    linear = "encoder.weight" in tensors
    said = _recorded(folder / "saectl.json").filled(
        by_module(trainer.get("submodule_name"), model=trainer.get("lm_name"))
        if buffer.get("io", "out") == "out"
        else Said()
    )
    more = Said(layer=trainer.get("layer"), context=buffer.get("ctx_len"))
    k = trainer.get("k")
    return _Head(
        CLASSES[kind],
        ("encoder.weight", "decoder.weight") if linear else ("W_enc", "W_dec"),
        (True, False) if linear else (False, True),
        said.filled(more),
        None if k is None else int(k),
    )


def _qwen_scope(folder: Path, layer: int, tensors: Shapes) -> _Head:
    record = folder / f"layer{layer}.saectl.json"
    k = (read_json(record) or {}).get("k") or k_by_folders(folder)
    return _Head("topk", ("W_enc", "W_dec"), (True, False), _recorded(record), k)


def _gemma_scope(folder: Path, layer: int, tensors: Shapes) -> _Head:
    names = {name.lower(): name for name in tensors}
    weights = (names.get("w_enc", "W_enc"), names.get("w_dec", "W_dec"))
    return _Head("jumprelu", weights, (False, True), _recorded(folder / "saectl.json"))


def _circuit_tracer(folder: Path, layer: int, tensors: Shapes) -> _Head:
    path = folder / "config.yaml"
    try:
        with explained(path, "read"):
            config = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise StoreError(f"{path} is no mapping")
    hooks = {
        "hook_name": f"blocks.{layer}.{config.get('feature_input_hook')}",
        "hook_name_out": f"blocks.{layer}.{config.get('feature_output_hook')}",
        "model_name": config.get("model_name"),
    }
    said = _recorded(folder / f"saectl_layer_{layer}.json").filled(by_metadata(hooks))
    function = "jumprelu" if "activation_function.threshold" in tensors else "relu_l1"
    return _Head(function, ("W_enc", "W_dec"), (True, True), said, transcodes=True)


_HEADS: dict[ReleaseFormat, Callable[[Path, int, Shapes], _Head]] = {
    "saelens": _saelens,
    "sparsify": _sparsify,
    "dictionary_learning": _dictionary_learning,
    "qwen-scope": _qwen_scope,
    "gemma-scope": _gemma_scope,
    "circuit-tracer": _circuit_tracer,
}


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise StoreError(f"{path} is no JSON object")
    return found


def _recorded(path: Path) -> Said:
    """What our own record beside a peer's files says, if there is one."""
    found = read_json(path)
    metadata = found.get("metadata") if isinstance(found, dict) else None
    return by_metadata(metadata) if isinstance(metadata, dict) else Said()
