"""Run by the tests of `parallel`: forks the processes of a mesh, which meet over gloo.

Takes one order a line, JSON: {data, latent, folder, job, ...}, and answers with a line, the JSON
list of what each rank made of it. Imports are paid once, and each process has one thread.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))

from training import Bench, mixture

from sae_cli.errors import SaectlError
from sae_cli.sae.batch_cut import batch_top_k
from sae_cli.sae.mesh import SINGLE, Mesh
from sae_cli.sae.mesh_ranks import Ranks
from sae_cli.sae.selection import encode_top_k
from sae_cli.sae.shard_cut import batch_top_k_of_all, keep_largest
from sae_cli.sae.trainer import Trainer
from sae_cli.spec.train import ARCHITECTURES
from sae_cli.stages import crew, train

D, ROWS, STEPS = 16, 64, 8


def batch(step: int) -> torch.Tensor:
    return mixture(ROWS, D, seed=step)


def trainer(spec: dict[str, Any], mesh: Mesh) -> Trainer:
    fields = ARCHITECTURES[spec["arch"]].model_validate({"width": 64, "lr": 3e-3, **spec})
    return Trainer(fields, D, torch.full((D,), 0.5), 0.9, "cpu", STEPS, mesh)


def curve(order: dict[str, Any], mesh: Mesh) -> Any:
    """Train each of `specs` from step `start` (a state in the folder) to `stop`; leave the state
    and, at the end, the finished SAE there. Returns what the log said of each step."""
    told = {}
    for name, spec in order["specs"].items():
        made, here = trainer(spec, mesh), Path(order["folder"]) / f"{name}.safetensors"
        if order.get("start"):
            made.load_state_dict(
                load_file(here), {"arch": spec["arch"], "step": order["start"],
                                  "tokens": order["start"] * ROWS},
            )  # fmt: skip
        told[name] = []
        while made.steps < order.get("stop", STEPS):
            made.step(batch(made.steps))
            told[name].append(made.log())
        state, _ = made.state_dict()
        if made.steps == STEPS:
            made.calibrate(lambda: iter([batch(98), batch(99)]))
            sae = made.finish()
            state |= {} if sae is None else {f"sae.{n}": t for n, t in sae.tensors().items()}
        if mesh.leads:
            save_file({n: t.contiguous() for n, t in state.items()}, here)
    return told


def broken(order: dict[str, Any], mesh: Mesh) -> Any:
    """One process has a number that is not finite: what each says, and the steps it made."""
    made = trainer(order["spec"], mesh)
    for step in range(3):
        made.step(batch(step))
    if mesh.data_rank == mesh.data - 1 and mesh.latent_rank == mesh.latent - 1:
        made.form.params["dec"][3] = float("nan")
    try:
        made.step(batch(3))
    except SaectlError as error:
        return [str(error), made.steps, made.broken()]
    return None


def ties(order: dict[str, Any], mesh: Mesh) -> Any:
    """Products of small whole numbers are exact and often equal: (row, latent, value) that a
    batch keeps, row by row and as a whole."""
    generator = torch.Generator().manual_seed(order["seed"])
    z = torch.randint(-2, 3, (ROWS, D), generator=generator).float()
    enc = torch.randint(-1, 2, (64, D), generator=generator).float()
    enc[32:] = enc[:32]  # every latent has a twin, in another shard
    mine, own, bias = mesh.rows(z), mesh.own("enc", enc), torch.zeros(64 // mesh.latent)
    first = mesh.data_rank * len(mine), mesh.first(len(own))
    chosen = encode_top_k(mine, own, bias, order["k"])
    values = keep_largest(chosen.values, chosen.indices, order["k"], len(own), mesh)
    rows = torch.arange(len(mine))[:, None].expand_as(values)
    on = values > 0
    count, guess = order["k"] * ROWS, order["guess"]
    if mesh.processes == 1:
        kept = batch_top_k(mine, own, bias, count, guess)
    else:
        kept = batch_top_k_of_all(mine, own, bias, count, guess, mesh)

    def triples(rows: torch.Tensor, latents: torch.Tensor, values: torch.Tensor) -> list[Any]:
        parts = (rows + first[0], latents + first[1], values)
        return list(zip(*(part.tolist() for part in parts), strict=True))

    return [
        triples(rows[on], chosen.indices[on], values[on]),
        triples(kept.rows, kept.latents, kept.values),
        float(kept.cut),
    ]


def die() -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def stage(order: dict[str, Any], mesh: Mesh) -> Any:
    """The train stage on the array in `folder`, as torchrun's processes do it: the exit code, and
    what rank 0 says of its tasks."""
    place = Bench(Path(order["folder"]))
    if dist.is_initialized() and dist.get_rank():
        alive = iter([True] * order.get("lives", 10**6))
        return [crew.follow(train.run, lambda: not next(alive, False) and die()), None]
    asked = iter([False] * order.get("steps", 10**6))
    tasks = {
        name: place.task(name, stop=lambda: next(asked, True), **spec)
        for name, spec in order["specs"].items()
    }
    error = ""
    try:
        train.run(list(tasks.values()))
    except (SaectlError, OSError) as e:
        error = str(e)
    code = 1 if place.failed or error else 0
    crew.dismiss(code)
    return [code, {"finished": place.finished, "failed": place.failed, "error": error}]


JOBS = {"curve": curve, "broken": broken, "ties": ties, "stage": stage}


def child(rank: int, port: int, order: dict[str, Any], answer: Path) -> None:
    size = order["data"] * order["latent"]
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size)
    )
    dist.init_process_group("gloo")
    alone = order["job"] == "stage"  # it makes its own
    mesh = SINGLE if alone else Ranks(order["data"], order["latent"], torch.device("cpu"))
    answer.write_text(json.dumps(JOBS[order["job"]](order, mesh)))
    if dist.is_initialized():
        dist.destroy_process_group()


def run(order: dict[str, Any]) -> list[Any]:
    """Each rank's answer, or its exit code where it gave none."""
    size = order["data"] * order["latent"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = [Path(order["folder"]) / f"answer-{rank}.json" for rank in range(size)]
    children = []
    for rank, answer in enumerate(answers):
        answer.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(rank, port, order, answer)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    return [
        json.loads(answer.read_text()) if answer.exists() else code
        for answer, code in zip(answers, codes, strict=True)
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        one = order["data"] * order["latent"] == 1
        print(json.dumps([JOBS[order["job"]](order, SINGLE)] if one else run(order)), flush=True)
