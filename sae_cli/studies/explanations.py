"""Whether a latent can be told in words that predict it on documents they were not made from.

Explanations are made from training documents and scored on held-out ones, by two explainers with
the same examples: patterns of one to three tokens (`ngram_...`), which need no model but the one
that is studied, and, where the spec names one, a language model (`judge_...`). An n-gram score is
no "autointerp": a latent of meanings, that no few tokens tell, has a low one. Read it against the
controls, which stand beside it:

- `permuted`: each latent's examples, judged by another latent's explanation;
- `majority`: one who always says yes, which is F1 2/3 and a balanced accuracy of 1/2;
- `neurons`, `random`: the same explainer for directions that nobody learnt, as many of which fire.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from sae_cli.errors import StoreError
from sae_cli.sae.controls import SEED
from sae_cli.spec.studies import ExplanationsStudy
from sae_cli.studies.bench import Bench, Figure, Findings
from sae_cli.studies.explain.contexts import LEAST, Contexts
from sae_cli.studies.explain.directions import L0_TOKENS, directions
from sae_cli.studies.explain.figures import METHOD, mean_figure
from sae_cli.studies.explain.gather import Dictionary, Gathered, Wanted, gather
from sae_cli.studies.explain.judge.study import judge
from sae_cli.studies.explain.protocol import FEWEST, MARKED
from sae_cli.studies.explain.scoring import PROTOCOLS, Verdict
from sae_cli.studies.explain.text import Text
from sae_cli.studies.explain.units import SPARE, Side, Study, Unit, candidates, drawn
from sae_cli.studies.explain.windows import HELD
from sae_cli.studies.explain.words import spelling, told

SCORES = ("f1", "balanced_accuracy", "precision", "recall")


def run(spec: ExplanationsStudy, bench: Bench) -> dict[str, Findings]:
    """Findings of each of `bench.saes`, by its key.

    Raises StoreError where a document is in both splits, JudgeError where the judge can't be asked.
    """
    beside = directions(bench)
    names: dict[int, str] = {}
    every: dict[str, Dictionary] = dict(bench.saes)
    for key, controls in beside.items():
        for name, each in controls.items():  # shared ones once
            every[names.setdefault(id(each), f"{name} of {key}")] = each
    train, found = gather(bench, spec, "train", {
        name: Wanted(each, candidates(each.d_sae, spec)) for name, each in every.items()
    })  # fmt: skip
    heldout, scored = gather(bench, spec, "heldout", {
        name: Wanted(every[name], each.latents[drawn(each, spec)]) for name, each in found.items()
    })  # fmt: skip
    refuse_shared(train, heldout)
    contexts = Contexts(train.kept_suffixes(), train.base, spec.order)
    study = Study(spec, contexts, Side.of(heldout, contexts))
    spell = spelling(bench.tokenizer)

    def units(name: str, with_words: bool) -> list[Unit]:
        bench.leave("explaining latents")
        words: Callable[..., str] | None = None
        if with_words:
            words = lambda pattern: told(contexts, pattern, spell)  # noqa: E731
        return study.units(found[name], scored[name], words)

    directed = {name: units(name, False) for name in every if name not in bench.saes}
    out, mine = {}, {}
    for key in bench.saes:
        mine[key] = units(key, True)
        figures = figures_of(mine[key], spec)
        for name, each in beside[key].items():
            figures += plain(directed[names[id(each)]], spec, control=name)
        method = method_of(spec, found[key], mine[key], train, heldout)
        method["controls_k"] = {name: each.k for name, each in beside[key].items()}
        out[key] = Findings(figures, {}, method)
    if spec.judge is not None:
        judge(spec, spec.judge, bench, train, heldout, mine, out)
    for key, findings in out.items():
        findings.detail["latents"] = [unit.record() for unit in mine[key]]
    return out


def refuse_shared(train: Text, heldout: Text) -> None:
    """Raises StoreError where a document is in both."""
    both = np.intersect1d(np.unique(train.documents), np.unique(heldout.documents))
    if len(both):
        raise StoreError(
            f"document {both[0]} is in both splits of the text: explanations would be scored on "
            "what they were made from",
            hint="saectl verify tells whether the blocks are damaged",
        )


def figures_of(units: list[Unit], spec: ExplanationsStudy) -> list[Figure]:
    """An SAE's own, and those of the controls that its own examples give."""
    return [
        *plain(units, spec),
        *verdicts([unit.permuted for unit in units], units, spec, "permuted"),
        *verdicts([unit.always for unit in units], units, spec, "majority"),
    ]


def plain(units: list[Unit], spec: ExplanationsStudy, control: str | None = None) -> list[Figure]:
    """Those of a dictionary's own explanations."""
    varies = [unit.pearson for unit in units]
    why = why_none(units, "no latent's activation varies")
    return [
        *verdicts([unit.verdict for unit in units], units, spec, control),
        mean_figure("ngram_pearson_v1", varies, why, control=control, seed=seed_of(control, spec)),
    ]


def verdicts(
    found: list[Verdict | None], units: list[Unit], spec: ExplanationsStudy, control: str | None
) -> list[Figure]:
    """Mean scores, by protocol and name."""
    out, seed = [], seed_of(control, spec)
    for protocol in PROTOCOLS:
        tallies = [None if each is None else getattr(each, protocol) for each in found]
        for score in SCORES:
            values = [None if each is None else getattr(each, score) for each in tallies]
            why = why_none(units, "nothing could be scored")
            out.append(
                mean_figure(f"ngram_{protocol}_{score}_v1", values, why, control=control, seed=seed)
            )
    return out


def seed_of(control: str | None, spec: ExplanationsStudy) -> int | None:
    """What its own choice was drawn with: an SAE's latents, whose order also decides by whose
    explanation `permuted` judges, and the rows of `random`. The other controls choose nothing."""
    return {None: spec.seed, "permuted": spec.seed, "random": SEED}.get(control)


def why_none(units: list[Unit], otherwise: str) -> str:
    """Why no latent has a figure."""
    if not units:
        return f"no latent fires in {FEWEST} training windows"
    reasons = Counter(unit.examples for unit in units if isinstance(unit.examples, str))
    return reasons.most_common(1)[0][0] if len(units) == reasons.total() else otherwise


def method_of(
    spec: ExplanationsStudy, found: Gathered, units: list[Unit], train: Text, heldout: Text
) -> dict[str, Any]:
    """How it was done."""
    live = int((found.windows.fired >= FEWEST).sum())
    unscored = Counter(unit.examples for unit in units if isinstance(unit.examples, str))
    return {
        "candidates": len(found.latents),
        "live_candidates": live,
        "latents": len(units),
        "unscored": dict(sorted(unscored.items())),
        "train": sizes(train),
        "heldout": sizes(heldout),
        "window": train.window,
        "order": spec.order,
        "examples": spec.examples,
        "bins": spec.bins,
        "seed": spec.seed,
        "marked_from": MARKED,
        "fewest": FEWEST,
        "least_suffix": LEAST,
        "held_windows": HELD,
        "spare": SPARE,
        "l0_tokens": L0_TOKENS,
        "interval": METHOD,
    }


def sizes(text: Text) -> dict[str, int]:
    """How much text there was."""
    return {
        "tokens": text.tokens.size,
        "kept": int(text.keep.sum()),
        "documents": len(np.unique(text.documents)),
    }
