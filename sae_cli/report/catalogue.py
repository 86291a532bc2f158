"""What each metric is called, in which unit it is, which way is better, and its formula.

The words for readers of a table or a page; the code of the formulas is `sae_cli.stages.metrics`,
which needs torch and is not imported here. A metric that is not listed keeps its own name and
claims no direction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down", "none"]
Ablation = Literal["none", "zero", "mean"]
KEPT = "kept"
"""The slice of the tokens that the mask lets count, of which there is every metric."""
_VERSION = re.compile(r"_v(\d+)$")


@dataclass(frozen=True)
class Meaning:
    """A metric in words."""

    label: str
    """Short, for the head of a column and an axis."""
    unit: str
    """What a value of one means."""
    direction: Direction
    """Which way is better."""
    formula: str
    form: str = "{:.4f}"
    """How a value is written for people."""
    ablation: Ablation = "none"
    """What the model's own activations are replaced by, in the metric or in its denominator."""
    model_level: bool = False
    """Counted over predictions of the model, not over activations."""

    def told(self, value: float | None) -> str:
        """A value for people; a dash where there is none."""
        return "–" if value is None else self.form.format(value)


_SHARE, _LATENTS, _NATS = "share of variance", "latents", "nats per token"
CATALOGUE: dict[str, Meaning] = {
    "l0_v1": Meaning(
        "L0", _LATENTS, "none", "mean number of latents that are not zero", "{:.1f}"
    ),
    "fvu.pooled_v1": Meaning(
        "FVU", _SHARE, "down", "Σ|x − y|² / Σ|x − x̄|², x̄ the mean of the kept tokens"
    ),
    "ev.pooled_v1": Meaning("EV", _SHARE, "up", "1 − FVU"),
    "ev.per_token_v1": Meaning(
        "EV per token", _SHARE, "up",
        "mean of 1 − |x − y|² / |x − m|², m the training mean; without tokens where x = m",
    ),
    "mse_v1": Meaning(
        "MSE", "activation²", "down", "mean of |x − y|², summed over dimensions", "{:.4g}"
    ),
    "cosine_v1": Meaning(
        "Cosine", "cosine", "up", "mean of x·y / (|x||y|), 0 where either is zero"
    ),
    "ce.delta_v1": Meaning(
        "ΔCE", _NATS, "down", "CE spliced − CE clean", "{:.4f}", model_level=True
    ),
    "ce_recovered.zero_v1": Meaning(
        "CE recovered", "share of zero-ablation harm", "up",
        "(CE zero − CE spliced) / (CE zero − CE clean), of pooled means",
        ablation="zero", model_level=True,
    ),
    "ce_recovered.mean_v1": Meaning(
        "CE recovered (mean)", "share of mean-ablation harm", "up",
        "(CE mean − CE spliced) / (CE mean − CE clean), of pooled means",
        ablation="mean", model_level=True,
    ),
    "kl.spliced_v1": Meaning(
        "KL", _NATS, "down", "mean of Σ p clean (log p clean − log p spliced)", model_level=True
    ),
    "kl.zero_v1": Meaning(
        "KL zero", _NATS, "none", "the same with activations set to zero",
        ablation="zero", model_level=True,
    ),
    "top1.agreement_v1": Meaning(
        "Top-1", "share of predictions", "up",
        "share of predictions whose most likely token is the clean pass's", model_level=True,
    ),
    "ce.clean_v1": Meaning(
        "CE clean", _NATS, "none", "mean −log p of the next token, clean pass", "{:.4f}",
        model_level=True,
    ),
    "ce.spliced_v1": Meaning(
        "CE spliced", _NATS, "down", "the same with reconstructions in place", model_level=True
    ),
    "ce.zero_v1": Meaning(
        "CE zero", _NATS, "none", "the same with activations set to zero",
        ablation="zero", model_level=True,
    ),
    "ce.mean_v1": Meaning(
        "CE mean", _NATS, "none", "the same with activations set to the training mean",
        ablation="mean", model_level=True,
    ),
    "dead_fraction_v1": Meaning(
        "Dead", "share of latents", "down", "share of latents that fire on no kept token",
        "{:.1%}",
    ),
    "dense_fraction_v1": Meaning(
        "Dense", "share of latents", "none",
        "share of latents that fire on more than eval.dense_threshold of the kept tokens",
        "{:.1%}",
    ),
    "l1_v1": Meaning(
        "L1", "activation", "none", "mean of Σ|f|, decoder rows of unit norm", "{:.4g}"
    ),
    "shrinkage_v1": Meaning(
        "Shrinkage", "ratio", "none", "Σ|y|² / Σx·y; below 1, reconstructions are too small"
    ),
    "norm_ratio_v1": Meaning(
        "Norm ratio", "ratio", "none", "mean of |y| / |x|, without tokens where x = 0"
    ),
    "truth.f1_v1": Meaning(
        "F1", "F1", "up",
        "mean over labels of held-out 2 TP / (called + labelled), of the latent and threshold that "
        "are best for the label on training documents",
    ),
    "truth.auroc_v1": Meaning(
        "AUROC", "probability", "up",
        "mean over labels of the held-out chance that a labelled token's value is above another's "
        "(ties half), of the latent that is best for the label on training documents",
    ),
    "truth.wins_neurons_v1": Meaning(
        "Beats neurons", "share of labels", "up",
        "share of labels whose F1 is above that of the best neuron, of either sign", "{:.1%}",
    ),
    "truth.wins_random_v1": Meaning(
        "Beats random", "share of labels", "up",
        "share of labels whose F1 is above that of the best of as many random directions as there "
        "are latents", "{:.1%}",
    ),
    "stability.mmcs_v1": Meaning(
        "MMCS", "cosine", "up",
        "mean over live latents of the largest cosine of decoder rows with a twin's; mean of twins",
    ),
    "stability.shared_v1": Meaning(
        "Shared", "share of live latents", "up",
        "share of live latents whose largest cosine with a twin's is above stability.least",
        "{:.1%}",
    ),
    "stability.matched_v1": Meaning(
        "Matched", "share of live latents", "up",
        "share of live latents whose partner, one to one, has a cosine above stability.least",
        "{:.1%}",
    ),
    "localisation.half_v1": Meaning(
        "Latents for half", _LATENTS, "down",
        "the least k, of those asked for, whose patch moves at least half of what all of x moves",
        "{:.0f}", model_level=True,
    ),
    "localisation.full_v1": Meaning(
        "Moved by all of x", "nats", "none",
        "mean of D clean − D with x of the prompt whose names are exchanged, D the logit "
        "difference of the two names", "{:.3g}", model_level=True,
    ),
    "localisation.moved_v1": Meaning(
        "Moved", "share of what all of x moves", "up",
        "Σ(D clean − D with k latents) / Σ(D clean − D with all of x)", model_level=True,
    ),
    "localisation.edit_v1": Meaning(
        "Edit", "share of the whole change", "down",
        "Σ|change by k latents| / Σ|change of all of x|",
    ),
    "probing.accuracy_v1": Meaning(
        "Probe accuracy", "share of texts", "up",
        "share of test texts whose label a probe on k latents says", "{:.3f}",
    ),
    "probing.auroc_v1": Meaning(
        "Probe AUROC", "share of pairs", "up",
        "share of (positive, negative) test texts whose positive ranks higher; ties are half",
        "{:.3f}",
    ),
    "probing.f1_v1": Meaning(
        "Probe F1", "F1", "up", "2TP / (2TP + FP + FN) of the positive label, test texts", "{:.3f}"
    ),
    **{
        f"{judge}_{protocol}_{score}_v1": Meaning(
            f"{name} {protocol}, {label}", "share", "up",
            f"mean over latents of {formula}, of answers by {who}: {question}", "{:.3f}",
        )
        for judge, name, who in (
            ("ngram", "N-gram", "patterns of tokens learnt on training documents"),
            ("judge", "Judge", "a language model, by an explanation of its own"),
        )
        for protocol, question in (
            ("detection", "does the latent fire in this held-out window?"),
            ("fuzzing", "are the marked tokens of this held-out window those it fires on?"),
        )
        for score, label, formula in (
            ("f1", "F1", "2TP / (2TP + FP + FN)"),
            ("balanced_accuracy", "balanced accuracy", "(TP / (TP + FN) + TN / (TN + FP)) / 2"),
            ("precision", "precision", "TP / (TP + FP), without latents where nothing is affirmed"),
            ("recall", "recall", "TP / (TP + FN)"),
        )
    },
    "ngram_pearson_v1": Meaning(
        "N-gram Pearson", "correlation", "up",
        "mean over latents of Pearson's r of the activation that patterns of tokens expect and the "
        "true one, over held-out tokens",
        "{:.3f}",
    ),
    "steering.baseline_harmful_v1": Meaning(
        "Refused before, harmful", "share of prompts", "none",
        "share of harmful test prompts that the model left alone refuses", "{:.1%}",
        model_level=True,
    ),
    "steering.baseline_harmless_v1": Meaning(
        "Refused before, harmless", "share of prompts", "none",
        "share of harmless test prompts that the model left alone refuses", "{:.1%}",
        model_level=True,
    ),
    "steering.induced_v1": Meaning(
        "Refused, harmless", "share of prompts", "up",
        "share of harmless test prompts refused (over-refusal) while a direction is added, of the "
        "same length for the SAE and for its controls", "{:.1%}", model_level=True,
    ),
    "steering.wellformed_v1": Meaning(
        "Well formed", "share of prompts", "up",
        "share of harmless test prompts whose reply then is exactly one refusal of the embedded "
        "model's family", "{:.1%}", model_level=True,
    ),
    "steering.refused_v1": Meaning(
        "Refused, harmful", "share of prompts", "up",
        "share of harmful test prompts refused then", "{:.1%}", model_level=True,
    ),
    "steering.p_value_v1": Meaning(
        "p", "probability", "down",
        "(1 + random sets of features that induce as much) / (1 + random sets)", "{:.3f}",
        model_level=True,
    ),
    "steering.features_v1": Meaning(
        "Features", _LATENTS, "down", "size of the set that validation prompts chose", "{:.0f}"
    ),
    "steering.strength_v1": Meaning(
        "Strength", "mean norms", "none",
        "length of the direction, in mean norms of the site at the last prompt token of harmless "
        "prompts; chosen on validation prompts", "{:.3g}",
    ),
    "steering.gap_v1": Meaning(
        "Gap", "nats", "up",
        "mean change of r = log P(R) − log(1 − P(R)) on harmless test prompts, R the tokens that "
        "begin the model's own refusals", "{:.2f}", model_level=True,
    ),
    "steering.necessity_v1": Meaning(
        "Necessity", "nats", "up",
        "mean fall of r on harmful test prompts, each feature at its mean on harmless ones",
        "{:.2f}", model_level=True,
    ),
    "steering.suppressed_v1": Meaning(
        "Refusal suppressed", "share of prompts", "none",
        "share of harmful test prompts refused before − while refusal is suppressed, because the "
        "sweep asked for it", "{:.1%}", model_level=True,
    ),
    "steering.kl_v1": Meaning(
        "KL of text", _NATS, "down",
        "mean of Σ p clean (log p clean − log p pushed), the direction added at every token of "
        "held-out text that counts", model_level=True,
    ),
    "steering.ce_delta_v1": Meaning(
        "ΔCE of text", _NATS, "down", "mean of log p clean − log p pushed of the next token, "
        "likewise", model_level=True,
    ),
    "steering.distinct2_v1": Meaning(
        "Distinct-2", "share of pairs", "up",
        "mean over replies to harmless test prompts of different pairs of neighbouring tokens / "
        "pairs", "{:.3f}", model_level=True,
    ),
    "steering.judged_v1": Meaning(
        "Refused, by a judge", "share of prompts", "none",
        "share of replies that a language model calls refusals", "{:.1%}", model_level=True,
    ),
    "norm_in_v1": Meaning("Norm", "activation", "none", "mean of |x|", "{:.4g}"),
    "norm_out_v1": Meaning("Norm out", "activation", "none", "mean of |y|", "{:.4g}"),
}  # fmt: skip
"""In the order in which a reader wants them. x are kept activations, y reconstructions, f latents;
sums run over the tokens that count."""


def meaning(metric: str) -> Meaning:
    """The words for a metric; for one that is not listed, its name and nothing that is guessed."""
    return CATALOGUE.get(metric) or Meaning(metric, "", "none", "", "{:.4g}")


def version_of(metric: str) -> int | None:
    """The version in a metric's name; None where the name has none."""
    found = _VERSION.search(metric)
    return None if found is None else int(found.group(1))


def unversioned(metric: str) -> str:
    """The name without its version."""
    return _VERSION.sub("", metric)


def ordered(metrics: set[str]) -> list[str]:
    """Names in the catalogue's order; the others after them, by name."""
    return [*filter(metrics.__contains__, CATALOGUE), *sorted(metrics - CATALOGUE.keys())]
