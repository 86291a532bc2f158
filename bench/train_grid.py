"""N SAEs on one stored array, all at once against one after another: for `train_step.py --grid N`.

Both go through the stages as the command does, in this process and one workspace, so neither pays
for starting Python; with `--command`, both are the command, once or N times, as a user runs them.
The SAEs differ by the seed of their weights. The array is a site of the embedded model, or, for
another d, of a random Qwen3 layer of that size that reads the same tokens: speed does not ask what
the rows mean. Bytes read are those of the array's files that are mapped to
be copied.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from train_peers import Setup
from transformers import AutoModelForCausalLM, Qwen3Config

from sae_cli.cli.progress import Lines
from sae_cli.cli.session import open_sweeps, recorded_words, remember
from sae_cli.lm import tiny
from sae_cli.plan.graph import Stage
from sae_cli.run import inline
from sae_cli.run.base import Context
from sae_cli.run.command import PROGRAM, words
from sae_cli.store.layout import Workspace
from sae_cli.store.tables.files import LocalFiles


def compare(setup: Setup, count: int, tokens: int, rounds: int, command: bool) -> None:
    """Print seconds and bytes of both ways, and the ratio: median (least to greatest). The array
    has `tokens`, and training takes two epochs."""
    act = run_command if command else run
    with tempfile.TemporaryDirectory() as name:
        graph, context = opened(Path(name), setup, count, tokens)
        run([s for s in graph if s.kind in ("tokens", "cache")], context)
        training = [s for s in graph if s.kind == "train"]
        seconds: dict[str, list[float]] = {"at once": [], "in turn": []}
        read: dict[str, int] = {}
        for number in range(rounds + 1):
            for way in list(seconds)[:: -1 if number % 2 else 1]:
                jobs = [training] if way == "at once" else [[stage] for stage in training]
                context.force = {stage.name for stage in training}
                start = time.perf_counter()
                with counted() as bytes_read:
                    for stages in jobs:
                        act(stages, context)
                if number:  # the first round warms up
                    seconds[way].append(time.perf_counter() - start)
                read[way] = sum(bytes_read)
    for way, spent in seconds.items():
        told = "" if command else f"  {read[way] / 1e6:8.1f} MB read"
        print(f"{count} {way:<8}{statistics.median(spent):8.2f} s{told}")
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    bytes_told = "" if command else f", {read['in turn'] / read['at once']:.2f} in bytes"
    print(
        f"in turn / at once: {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
        f"{max(ratios):.2f}) in time{bytes_told}"
    )


def opened(folder: Path, setup: Setup, count: int, tokens: int) -> tuple[list[Stage], Context]:
    """The stages of a sweep of `count` SAEs, and what runs them in a new workspace."""
    models: dict[str, Any] = {"rows": {"builtin": "tiny", "dtype": "float32"}}
    if setup.d != 64:
        models["rows"] = {"path": str(random_model(folder / "model", setup.d)), "dtype": "float32"}
    sparsity = {"l0" if setup.arch == "jumprelu" else "k": setup.k}
    sweep = {
        "name": "grid", "models": models, "model": "rows", "device": setup.device,
        "data": {"tokens": tokens, "heldout_tokens": 1024},
        "train": {
            "width": setup.d_sae, "batch_size": setup.batch, "num_tokens": 2 * tokens,
            "arch": setup.arch, "data_seed": 0, **sparsity,
        },
        "matrix": {"layer": [0], "site": ["resid_post"], "seed": list(range(count))},
    }  # fmt: skip
    path = folder / "grid.yaml"
    path.write_text(json.dumps(sweep))
    workspace = Workspace(folder / "store")
    (found,) = open_sweeps(path, None, None, workspace, online=False)
    remember(found.graph, workspace)
    context = Context(
        workspace,
        Lines(quiet=True),
        setup.device,
        lambda: False,
        sweep=recorded_words(found.graph, workspace, ()),
    )
    return list(found.graph.stages), context


def run(stages: list[Stage], context: Context) -> None:
    """Run stages that must succeed."""
    for result in inline.run(stages, context):
        if result.ending != "done":
            raise SystemExit(f"{result.stage.name} {result.ending}: {result.cause}")


def run_command(stages: list[Stage], context: Context) -> None:
    """The same as the command, in a process of its own."""
    subprocess.run([*PROGRAM, *words(stages, context)], check=True, capture_output=True)


@contextmanager
def counted() -> Iterator[list[int]]:
    """The size of every piece of a file that is mapped meanwhile."""
    sizes: list[int] = []
    plain = LocalFiles.map

    def told(files: LocalFiles, name: str, offset: int, size: int) -> Any:
        sizes.append(size)
        return plain(files, name, offset, size)

    with patch.object(LocalFiles, "map", told):
        yield sizes


def random_model(folder: Path, d: int) -> Path:
    """One Qwen3 layer of random weights, hidden size `d`, with the embedded model's tokenizer."""
    shutil.copytree(tiny.folder(), folder)
    config = Qwen3Config.from_pretrained(folder)
    config.update({"hidden_size": d, "num_hidden_layers": 1, "layer_types": ["full_attention"]})
    torch.manual_seed(0)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
