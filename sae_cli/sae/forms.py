"""Which form trains which spec: one line for each architecture.

The only place that knows all of them. A spec without a line here is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sae_cli.errors import TrainingError
from sae_cli.sae.batchtopk import BatchTopK
from sae_cli.sae.form import Form
from sae_cli.sae.gated import Gated
from sae_cli.sae.jumprelu import JumpReLU
from sae_cli.sae.jumprelu_tanh import JumpReLUTanh
from sae_cli.sae.matryoshka import Matryoshka
from sae_cli.sae.mesh import SINGLE, Mesh
from sae_cli.sae.p_anneal import PAnneal
from sae_cli.sae.relu_l1 import ReluL1
from sae_cli.sae.tied import Tied
from sae_cli.sae.topk import TopK
from sae_cli.sae.transcoder import Transcoding
from sae_cli.spec.train import (
    BatchTopKTrain,
    GatedTrain,
    JumpReluTanhTrain,
    JumpReluTrain,
    MatryoshkaTrain,
    PAnnealTrain,
    ReluL1Train,
    TiedTrain,
    TopKTrain,
    TranscoderTrain,
)
from sae_cli.spec.train_base import TrainBase

Maker = Callable[..., Form]
"""Called with the spec, d_in, the generator of the initial weights, and the device."""

FORMS: dict[type[TrainBase], Maker] = {
    TopKTrain: TopK,
    BatchTopKTrain: BatchTopK,
    MatryoshkaTrain: Matryoshka,
    JumpReluTrain: JumpReLU,
    JumpReluTanhTrain: JumpReLUTanh,
    ReluL1Train: ReluL1,
    PAnnealTrain: PAnneal,
    GatedTrain: Gated,
    TiedTrain: Tied,
}


def make_form(
    spec: TrainBase,
    d_in: int,
    device: torch.device,
    mesh: Mesh = SINGLE,
    d_out: int | None = None,
) -> Form:
    """The form of `spec`, its weights drawn from the spec's seed; in a mesh of several processes
    all of them are drawn, on the CPU, and this process's latents kept. With `d_out`, a transcoder
    that predicts so many numbers.

    Raises TrainingError when nothing here trains such a spec.
    """
    maker = FORMS.get(type(spec))
    if maker is None:
        raise TrainingError(f"nothing here trains a {type(spec).__name__}")
    generator = torch.Generator().manual_seed(spec.seed)
    alone = mesh.processes == 1
    form = maker(spec, d_in, generator, device if alone else torch.device("cpu"))
    if d_out is not None:
        assert isinstance(form, Transcoding) and isinstance(spec, TranscoderTrain)
        form.transcode(d_out, spec.skip, generator)
    if not alone:
        form.spread(mesh, device)
    return form
