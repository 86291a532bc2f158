"""Whether what a stage is made from outside the workspace can be read: its model, its text, or
another project's SAE.

Asked before something is deleted that only they can bring back, by the very means that the stage
will use. What was read is forgotten again. Refused: to say yes for what only looks readable.
"""

from __future__ import annotations

import gc

import torch

from sae_cli.errors import DataError
from sae_cli.lm.device import pick_device
from sae_cli.lm.load import load_model, load_tokenizer
from sae_cli.lm.sources import documents, source_name
from sae_cli.spec.stages import DataSpec, ModelSpec
from sae_cli.spec.work import CacheWork, ImportWork, TokensWork, Work
from sae_cli.stages import imported


def check(work: Work, capture: Work | None, device: str) -> None:
    """Load the model that a stage reads, or its tokenizer and the first document of each source.

    `capture` is what the stage's activations were made by, where it reads some. Raises ModelError
    or DataError, as the stage itself would, and StoreError where an SAE's files are other ones.
    """
    if isinstance(work, TokensWork):
        load_tokenizer(work.model)
        _first_documents(work.data)
    elif isinstance(work, CacheWork):
        _model(work.model, device)
    elif isinstance(work, ImportWork):
        assert isinstance(capture, CacheWork)
        imported.check(work.sae, capture.layer)
    elif isinstance(capture, CacheWork):
        _model(capture.model, device)


def _first_documents(data: DataSpec) -> None:
    for source in data.sources:
        if next(documents(source, seed=data.seed), None) is None:
            raise DataError(f"source {source_name(source)} holds no documents")


def _model(spec: ModelSpec, device: str) -> None:
    model = load_model(spec, pick_device(device))
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
