"""Without network: models and datasets of the hub, and Weights & Biases."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_cli.stages.track_files import history

ONE = "*tiny.L1.mlp_out.topk*"
WANDB = "wandb={project: e2e, mode: offline}"


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """The address of a hub that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        listener = threading.Thread(target=take, daemon=True)
        listener.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for each in held:
            each.close()


def closed_port() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_model_without_network_ends_at_once_and_says_how_to_fetch_it(
    saectl: Any, silent_hub: str
) -> None:
    for env in (
        {"HF_HUB_OFFLINE": "1"},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": closed_port()},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": silent_hub},
    ):
        refused = saectl("cache", "--model", "qwen3-4b", code=1, env=env)
        assert "Qwen/Qwen3-4B" in refused.stderr and "hf download Qwen/Qwen3-4B" in refused.stderr
        assert "--model /path/to/folder" in refused.stderr
        assert not refused.stdout
    assert not saectl.store.exists(), "a refused run leaves nothing behind"


def test_a_hub_model_can_be_planned_without_network(saectl: Any) -> None:
    plan = saectl.sweep("plan", "sweeps/qwen3-4b.yaml")
    assert "model:Qwen/Qwen3-4B@main" in plan["unpinned"]
    assert {line["action"] for line in plan["stages"]} == {"run"}
    assert all(line["bytes"] is not None for line in plan["stages"])
    assert not saectl.store.exists()


def test_a_hub_dataset_without_network_says_how_to_fetch_it(saectl: Any, small: Path) -> None:
    words = ("run", small, "--set", "data.sources=[{hf: some/corpus}]")
    refused = saectl(*words, code=1)
    assert "some/corpus" in refused.stderr
    assert "hf download some/corpus --repo-type dataset" in refused.stderr


def test_no_token_gets_into_a_message_or_the_workspace(saectl: Any, small: Path) -> None:
    secret = "hf_" + "s3cr3t" * 5
    env = {"HF_TOKEN": secret, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": closed_port()}
    refused = saectl("run", small, "--set", "data.sources=[{hf: some/corpus}]", code=1, env=env)
    assert secret not in refused.stdout + refused.stderr
    saectl("run", small, "--only", "tokens", env=env)
    for file in saectl.store.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_wandb_is_not_imported_unless_the_spec_asks(warm: Any, small: Path) -> None:
    only = ("run", small, "--only", f"train/{ONE}", "--force")
    trained = warm(*only, env={"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rsplit("|", 1)[-1].strip() for line in trained.stderr.splitlines()}
    assert "torch" in imported and "wandb" not in imported
    assert not list(warm.store.rglob("wandb"))


@pytest.mark.slow
def test_a_tracked_training_that_is_killed_and_stopped_has_one_curve_of_the_stages_key(
    warm: Any, small: Path, disk: Any, until: Any
) -> None:
    """Killed once, stopped once: the files of three attempts hold the curve's steps, each once."""
    pytest.importorskip("wandb")
    longer = ("run", small, "--only", f"train/{ONE}", "--set", "train.num_tokens=409_600")
    keys = [
        [line["key"] for line in warm.sweep("plan", *words[1:])["stages"]]
        for words in (longer, (*longer, "--set", WANDB))
    ]
    assert keys[0] == keys[1], "logging is no part of the identity"
    (key,) = keys[0]

    def stage() -> Path:
        return next(warm.store.glob(f"train/*-{key}"), warm.store)

    for end, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)):
        process = warm.start(*longer, "--set", WANDB)
        begun = len(list(stage().glob("wandb/offline-run-*")))
        until(
            lambda process=process, begun=begun: (
                process.poll() is not None
                or (
                    (stage() / "work/state.safetensors").exists()
                    and len(list(stage().glob("wandb/offline-run-*"))) > begun
                )
            )
        )
        process.send_signal(end)
        said = process.communicate(timeout=900)[0]
        assert process.returncode == code, said
    resumed = warm(*longer, "--set", WANDB)
    assert "resumes at" in resumed.stderr
    runs = sorted(stage().glob("wandb/offline-run-*"))
    assert len(runs) == 3, "one of each process"
    logged = []
    for run in runs:
        assert key in run.name
        (log,) = run.glob("*.wandb")
        assert log.name == f"run-{key}.wandb"
        for step, numbers in history(log):
            read = {k: json.loads(v) for k, v in numbers.items() if k[0] != "_"}
            logged.append({"step": step, **{k: v for k, v in read.items() if k != "waiting"}})
    curve = disk(warm.store).curves()[stage().name]
    assert logged == [{k: v for k, v in line.items() if k != "tokens"} for line in curve]
    assert [line["step"] for line in curve] == list(range(10, 801, 10))
    spec = json.loads((stage() / "spec.json").read_text())
    assert "wandb" not in spec["identity"], spec
    done = disk(warm.store).results("train")[f"train/{stage().name}"]
    assert not any("wandb" in name for name in done[0]), "they are no part of the result"
    warm(*longer, "--force")
    assert disk(warm.store).results("train")[f"train/{stage().name}"] == done
