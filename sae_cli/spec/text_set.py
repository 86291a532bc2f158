"""Where a table of texts lies: what studies that need texts of their own ask for, and pins fix."""

from __future__ import annotations

from typing import Annotated, Literal

from sae_cli.spec.base import Execution, Frozen, Shape


class TextSet(Frozen):
    """A table of texts, wherever it lies."""

    builtin: Literal["tiny"] | None = None
    """Texts made of the embedded model's grammar."""
    path: Annotated[str | None, Execution()] = None
    """A .jsonl, .json, .csv or .parquet file, a folder of them, or a saved dataset."""
    hf: str | None = None
    """A Hugging Face dataset id, streamed."""
    config: str | None = None
    """Configuration (subset) of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset or of a `save_to_disk` folder."""
    revision: str | None = None
    """Commit of a hub dataset."""
    digest: str | None = None
    """sha256 over a local or built-in data set, or the version of the package sae-probes. Filled
    in when the sweep is planned."""
    text: str = "text"
    """Column that holds the texts."""
    name: Annotated[str, Shape(r"[\w.-]+", "a name of letters, digits and any of _ . -")] | None = (
        None
    )
    """What rows of the results call it. null: the name of the file or of the dataset."""
