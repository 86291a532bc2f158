"""How many SAEs are judged at a time: as many as fit, the rest in a later round.

A round goes over all the held-out text, with one clean forward a batch, and keeps on the device the
weights of its SAEs and what its sites gave for one batch. The rest of what a batch takes comes and
goes with one SAE at a time, so it counts once. Like `plan.memory`'s numbers these are bounds, not
measurements. An SAE that does not fit alone has a round of its own: the machine may know better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from transformers import PreTrainedModel

from sae_cli.lm.anatomy import width as d_model
from sae_cli.lm.restart import skipped, spot
from sae_cli.spec.work import sae_of
from sae_cli.stages.bootstrap import UNITS
from sae_cli.stages.eval_place import Place, Site
from sae_cli.stages.losses import POSITIONS_AT_ONCE
from sae_cli.stages.task import Task

DENSE = 5
"""float32 tensors [tokens, d_sae] that encoding and counting have alive, at most."""
THIN = 100
"""Bytes a token and dimension that counting errors takes: about a dozen tensors in float64."""
CENTRED = 3
"""float64 tensors [documents, d] of a place: of tokens that count, of outliers, and of both; one
more for each part that is looked at apart."""
LOGITS = 3
"""float32 tensors [tokens, vocabulary]: the clean ones, the edited ones, and those not widened."""
LOSS = 8
"""float32 tensors [POSITIONS_AT_ONCE, vocabulary] that a loss has alive."""
INSIDE = 32
"""Tensors [tokens, d_model] that the model's own layer has alive."""
LOADED = 2
"""Copies of an SAE that reading it makes and drops."""


class Seat(NamedTuple):
    """An SAE that waits for its round."""

    task: Task
    place: Place


Fits = Callable[[Sequence[Seat]], bool]


def rounds(seats: Iterable[Seat], fits: Fits) -> list[list[Seat]]:
    """Seats in rounds, those of a site one after another, so that they share its ablations."""
    order: dict[Site, dict[Place, list[Seat]]] = {}
    for seat in seats:
        order.setdefault(seat.place.site, {}).setdefault(seat.place, []).append(seat)
    made: list[list[Seat]] = []
    for seat in (s for places in order.values() for group in places.values() for s in group):
        if made and fits([*made[-1], seat]):
            made[-1].append(seat)
        else:
            made.append([seat])
    return made


def room_for(free: int | None, model: PreTrainedModel, tokens: int) -> Fits:
    """Whether a round's SAEs fit into `free` bytes beside the loaded `model`, in batches of
    `tokens`; everything fits where it is not known what there is."""
    if free is None:
        return lambda seats: True
    return lambda seats: need(seats, model, tokens) <= free


def need(seats: Sequence[Seat], model: PreTrainedModel, tokens: int) -> int:
    """Bytes that a round takes on the device, the model's weights apart."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    size, d = int(model.dtype.itemsize), d_model(model)
    sites = [site for seat in seats for site in (seat.place.read, seat.place.site)]
    seen = {spot(site.tap): site.tap.dim for site in sites}
    begun = {skipped(seat.place.site.tap) for seat in seats}
    dims = max(seen.values())
    places = {seat.place for seat in seats}
    units = min(UNITS, max(place.n_documents for place in places))
    sums = {p: CENTRED + len(p.parts) for place in places for p in (place, *place.longer.values())}
    by_document = 8 * units * sum(n * place.site.tap.dim for place, n in sums.items())
    weights = [_weights(seat) for seat in seats]
    kept = sum(weights) + by_document + tokens * size * (sum(seen.values()) + d * len(begun))
    encode = tokens * (4 * DENSE * max(map(_width, seats)) + THIN * dims + 8 * min(units, tokens))
    spread = 4 * LOSS * min(tokens, POSITIONS_AT_ONCE) * vocabulary
    logits = 4 * LOGITS * tokens * vocabulary
    return kept + logits + max(encode, spread, tokens * size * INSIDE * d, LOADED * max(weights))


def _width(seat: Seat) -> int:
    width = sae_of(seat.task.deps["train"].work).width
    assert width is not None
    return width


def _weights(seat: Seat) -> int:
    """Both matrices, three vectors of latents (the counter is int64), a skip, in bytes."""
    d_in, d_out = seat.place.read.tap.dim, seat.place.site.tap.dim
    skip = 0 if seat.place.read is seat.place.site else d_in * d_out
    return 4 * ((d_in + d_out + 4) * _width(seat) + skip)
