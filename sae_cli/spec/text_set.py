"""Where the texts lie that are trained on or that studies read, as one says it and pins fix."""

from __future__ import annotations

from typing import Annotated, Literal

from sae_cli.spec.base import Execution, Frozen, Shape


class Texts(Frozen):
    """Texts, wherever they lie."""

    builtin: Literal["tiny"] | None = None
    """Text of the embedded model's own seeded grammar."""
    path: Annotated[str | None, Execution()] = None
    """A .jsonl, .json, .csv or .parquet file (documents may be a .txt too), a folder of them, or a
    saved dataset."""
    hf: str | None = None
    """A Hugging Face dataset id, streamed."""
    config: str | None = None
    """Configuration (subset) of a hub dataset, for example `sample-10BT`."""
    split: str = "train"
    """Split of a hub dataset or of a `save_to_disk` folder."""
    revision: str | None = None
    """Commit of a hub dataset. Left out, the first run pins it (`pins.json` of the workspace)."""
    digest: str | None = None
    """sha256 over local or built-in texts, or the version of the package sae-probes. Filled in when
    the sweep is planned."""
    text: str = "text"
    """Column that holds the texts."""


class TextSet(Texts):
    """A table of texts that studies read."""

    name: Annotated[str, Shape(r"[\w.-]+", "a name of letters, digits and any of _ . -")] | None = (
        None
    )
    """What rows of the results call it. null: the name of the file or of the dataset."""
