"""An SAE that another project trained, as a cell of a sweep: which files, and what they hold.

Nothing is trained, so no field of training is here, and none may be given: what that SAE was
trained on, how long and from which seed is not known. `saectl import` writes such cells. What they
say of the files (width, function, k) is what a plan needs before they are read; then it is checked.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from sae_cli.spec.base import Count, Execution, Frozen, Shape
from sae_cli.spec.stages import ReleaseFormat, Site
from sae_cli.spec.train import ARCHITECTURES, Train

Label = Annotated[str, Shape("[A-Za-z0-9._-]{1,48}", "1 to 48 of A-Z, a-z, 0-9, '.', '_' and '-'")]
IMPORTED: Literal["imported"] = "imported"


class ImportedSae(Frozen):
    """An SAE read from another project's files."""

    sparsity: ClassVar[tuple[str, str]] = ("k", "k")
    arch: Literal["imported"]
    """Architecture."""
    format: ReleaseFormat
    """Whose files they are."""
    path: Annotated[str, Execution(), Field(min_length=1)]
    """The local folder of one SAE, or of those of all layers where the format has them in one. The
    key holds the digest of its files, not its path."""
    digest: Annotated[str, Shape("[0-9a-f]{64}", "a sha256, 64 hex digits")] | None = None
    """sha256 over the names and contents of the SAE's own files in that folder. Files that differ
    are refused. Left out, it is filled in when the sweep is planned."""
    file_layer: Count | None = None
    """Layer by which qwen-scope and circuit-tracer name the file; left out, the cell's layer."""
    width: PositiveInt
    """Number of latents."""
    function: Literal["topk", "relu_l1", "jumprelu"]
    """What it computes, by the architecture that is stored: the k largest latents (`topk`), all
    positive ones (`relu_l1`), or those above a threshold (`jumprelu`)."""
    k: PositiveInt | None = None
    """Active latents per token, of topk."""
    out_site: Site | None = None
    """Site of the same layer that a transcoder predicts."""
    skip: bool = False
    """A transcoder adds a linear map of its input."""
    source: str | None = None
    """Where the files come from, as cards and records say it: a hub id, a paper."""
    label: Label | None = None
    """What tells it from others of the same place in names and tables."""

    def layer(self, of_cell: int) -> int:
        """Layer by which the files name it, in a cell of layer `of_cell`."""
        return of_cell if self.file_layer is None else self.file_layer

    @model_validator(mode="after")
    def _k_is_of_topk(self) -> ImportedSae:
        if (self.k is not None) != (self.function == "topk"):
            raise PydanticCustomError(
                "imported_k",
                "function {function} has {what}: k is what topk has, and nothing else",
                {
                    "function": self.function,
                    "what": "no k" if self.k is None else f"k {self.k}",
                    "field": "k" if self.k is not None else "function",
                },
            )
        return self

    @model_validator(mode="after")
    def _a_skip_goes_somewhere(self) -> ImportedSae:
        if self.skip and self.out_site is None:
            raise PydanticCustomError(
                "skip_alone", "skip is for a transcoder: give out_site", {"field": "skip"}
            )
        return self


Sae = Train | ImportedSae
"""What a cell may be: trained here, or read."""
SAES: dict[str, type[Sae]] = {**ARCHITECTURES, IMPORTED: ImportedSae}


def stored(sae: Sae) -> str | None:
    """The function that an imported SAE's folder holds; None of one that is trained here."""
    return sae.function if isinstance(sae, ImportedSae) else None
