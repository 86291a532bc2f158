"""Trained SAEs to their metrics, on held-out documents, under the mask that training used.

All SAEs of a model share its clean forward, those of a site the ablated ones too; each has one
spliced forward a batch, which begins at its layer (`lm.restart`). Where they don't fit into memory
together, they are judged in rounds (`eval_rounds`). A number depends on its SAE alone, never on
who else is judged with it. Where `eval.controls` names some, each round has a second pass, for the
controls of its SAEs (`eval_controls`): where an SAE is at least as wide as its site, they take no
more memory than it took. Each longer context (`eval.contexts`) makes a pass longer by the same
text, joined (`eval_text`).

Where a token does not count, every pass keeps the original activation, so clean, spliced and
ablated runs differ only where the SAE is being judged. A transcoder's prediction takes the place of
what is there. Nothing before that site is changed, so what it reads is that of the clean pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from sae_cli.errors import ModelError, StoreError
from sae_cli.lm.device import pick_device
from sae_cli.lm.load import load_model
from sae_cli.lm.names import model_name
from sae_cli.lm.restart import Clean, Forwards, spot
from sae_cli.lm.splice import masked
from sae_cli.spec.stages import EvalSpec
from sae_cli.spec.work import CacheWork, EvalWork, TokensWork
from sae_cli.stages.eval_controls import Controls
from sae_cli.stages.eval_place import Batch, Counts, Place, Site
from sae_cli.stages.eval_rounds import Seat, room_for, rounds
from sae_cli.stages.eval_sae import Judged
from sae_cli.stages.eval_text import Texts
from sae_cli.stages.grid_memory import free_memory
from sae_cli.stages.passes import Passes
from sae_cli.stages.scores import Scores
from sae_cli.stages.task import Task
from sae_cli.store.blocks import BlockReader


def run(tasks: Sequence[Task]) -> None:
    """Measure the SAEs of all tasks; they are of one model, and measured the same way on the same
    text.

    An SAE whose folder or site can't be read fails its task, and no other's. Raises Interrupted
    when asked to stop: the SAEs of the rounds that were finished are done.
    """
    first = tasks[0]
    work, source, capture = first.work, first.deps["tokens"].work, first.deps["cache"].work
    assert isinstance(work, EvalWork) and isinstance(source, TokensWork)
    assert isinstance(capture, CacheWork)
    device = pick_device(first.device)
    model = load_model(capture.model, device)
    texts = Texts(BlockReader(first.deps["tokens"].path), work.eval, model, device)
    if work.eval.chat:
        texts.tell_chats(source.model)
    seats = _seats(tasks, model, device, texts)
    on_device, on_host = free_memory(first.device)
    free = on_host if on_device is None else on_device
    going = rounds(seats, room_for(free, model, texts.batch_tokens))
    one = first.slug if len(tasks) == 1 else f"{len(tasks)} SAEs of {model_name(capture.model)}"
    controls = _controls(first, work.eval, model, device)
    texts.passes = 1 if controls is None else 2
    first.report.begin(one, len(going) * texts.passes * texts.tokens, 0, "tokens")
    if len(going) > 1:
        first.report.note(
            f"{len(seats)} SAEs are judged in {len(going)} rounds: together they need more memory "
            "than there is"
        )
    forwards, judged_sites, made, shown = Forwards(model), set[Site](), 0, 0
    for number, some in enumerate(going):
        judged = _judged(some, device)
        tasks = [each.task for each in judged]
        if judged:
            _round(forwards, judged, tasks, texts, work.eval.splice, number * texts.passes)
            made += len(judged)
            judged_sites |= {each.place.site for each in judged}
            for each in judged:
                each.drop()
        beside = [] if controls is None else controls.beside(judged)
        if controls is not None and beside:
            _round(forwards, beside, tasks, texts, work.eval.splice, number * texts.passes + 1)
            shown += len(beside)
            controls.settle()
        del beside
        if number == len(going) - 1:
            edits = 2 * len(judged_sites) + made + shown if work.eval.splice else 0
            least = texts.batches * (1 + bool(shown) + edits) if made else 0
            first.report.note(_told(forwards, least))
        for each in judged:
            each.write(work.eval, () if controls is None else controls.records(each))


def _controls(
    task: Task, spec: EvalSpec, model: PreTrainedModel, device: torch.device
) -> Controls | None:
    if not spec.controls:
        return None
    passes = Passes(BlockReader(task.deps["tokens"].path), spec.batch_tokens)
    return Controls(spec, model, passes, device)


def _seats(
    tasks: Sequence[Task], model: PreTrainedModel, device: torch.device, texts: Texts
) -> list[Seat]:
    """Each task with its place, of which there is one for all that read and write the same."""
    sites: dict[str, Site] = {}
    places: dict[tuple[Site, Site], Place] = {}
    seats = []
    for task in tasks:
        roles = [task.deps[role] for role in ("cache", "target") if role in task.deps]
        try:
            for dep in roles:
                if dep.key not in sites:
                    sites[dep.key] = Site(dep, model, device)
        except (StoreError, ModelError) as error:
            task.fail(error)
            continue
        pair = sites[roles[0].key], sites[roles[-1].key]
        if pair not in places:
            places[pair] = texts.place(*pair)
        seats.append(Seat(task, places[pair]))
    return seats


def _judged(seats: Sequence[Seat], device: torch.device) -> list[Judged]:
    """The SAEs of a round, read from disk; one that can't be fails its task."""
    found = []
    for seat in seats:
        try:
            found.append(Judged(seat.task, seat.place, device))
        except StoreError as error:
            seat.task.fail(error)
    return found


def _round(
    forwards: Forwards,
    judged: Sequence[Scores],
    tasks: Sequence[Task],
    texts: Texts,
    splice: bool,
    before: int,
) -> None:
    """All the text for these coders, on behalf of the round's tasks; so many passes went
    `before`."""
    own, whole, gone = before % texts.passes * texts.tokens, texts.passes * texts.tokens, 0
    for name, text in texts.all.items():
        shown = [each if name is None else each.longer[name] for each in judged]
        for done, some in text:
            batch(forwards, shown, some, splice)
            for task in tasks:
                task.progress(own + gone + done, whole)
            tasks[0].report.at(before * texts.tokens + gone + done)
            if gone + done < texts.tokens:
                tasks[0].leave("its start: an evaluation begins again")
        for each in shown:
            each.place.seen = True
        gone += text.tokens


def batch(forwards: Forwards, judged: Sequence[Scores], some: Batch, splice: bool) -> None:
    """Show a batch to all of them."""
    places = list(dict.fromkeys(each.place for each in judged))
    taps = [site.tap for place in places for site in (place.read, place.site)]
    edits = [place.site.tap for place in places] if splice else []
    clean = forwards.clean(some.tokens, taps, edits)
    counts = {place: place.counts(clean, some) for place in places}
    if splice:
        _ablate(forwards, clean, counts)
    for place in places:
        here = counts[place]
        kept = clean.acts[spot(place.read.tap)][here.keep]
        wanted = clean.acts[spot(place.site.tap)][here.keep]
        if not place.seen:
            place.see(clean.acts[spot(place.site.tap)], here)
        for each in judged:
            if each.place is not place:
                continue
            each.rebuild(clean, kept, wanted, here)
            if splice:
                edit = masked(each.edit(clean), here.keep)
                changed = forwards.edited(clean, place.site.tap, edit)
                each.losses.update(clean, changed, here)
                del changed


def _ablate(forwards: Forwards, clean: Clean, counts: dict[Place, Counts]) -> None:
    """The ablated forwards, once for all places of one site where the same tokens count."""
    left = [place for place in counts if not place.seen]
    while left:
        first = left[0]
        keep = counts[first].keep
        alike = [
            place
            for place in left
            if place.site is first.site and torch.equal(counts[place].keep, keep)
        ]
        left = [place for place in left if place not in alike]
        for which, (_, edit) in enumerate(first.ablations()):
            changed = forwards.edited(clean, first.site.tap, masked(edit, keep))
            for place in alike:
                meters, _ = place.ablations()[which]
                meters.update(clean, changed, counts[place])


def _told(forwards: Forwards, least: int) -> str:
    made = forwards.made
    parts = [f"{made.clean} clean", f"{made.edited} edited"]
    if made.checks:
        parts.append(f"{made.checks} to see that edited ones can begin at their layer")
    told = f"forwards: {made.total} ({', '.join(parts)}); at least {least}"
    if made.layers_whole:
        told += f"; edited ones ran {made.layers / made.layers_whole:.0%} of the layers"
    return told
