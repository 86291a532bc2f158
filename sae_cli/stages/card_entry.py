"""One SAE as the cards see it: what its record says, in words; what it does not say is `unknown`.

Nothing here is computed: every figure, interval and digest is read from cfg.json, metrics.json and
the manifest, so that a card can be made again from the files of a release and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sae_cli.spec.stages import Site
from sae_cli.store.sae_names import TRANSCODERS

UNKNOWN = "unknown"
STUDIES = "studies.json"
"""What studies found of an SAE, in its folder: the record of each, by its name."""
SIDES: dict[Site, str] = {
    "resid_pre": "input",
    "resid_mid": "input",
    "resid_post": "output",
    "attn_out": "output",
    "attn_z": "input",
    "mlp_in": "input",
    "mlp_out": "output",
}
"""Which tensor of a site's module is read (`lm.sites`)."""
METHODS = {
    "topk": "the k largest latents of each token",
    "batchtopk": "the k largest latents a token over a whole batch, one threshold afterwards",
    "matryoshka": "BatchTopK whose first latents reconstruct alone, one threshold afterwards",
    "jumprelu": "a learned threshold per latent, steered to a target L0",
    "jumprelu_tanh": "a learned threshold per latent, under a tanh penalty",
    "relu_l1": "an L1 penalty weighed by decoder norms",
    "p_anneal": "a penalty on f^p, p falling from 1",
    "gated": "a gate says whether, a magnitude how much, under an L1 penalty",
    "tied": "an L1 penalty, one matrix both ways",
}
SPARSITY = ("k", "l0", "l1", "tanh", "p", "groups")
"""Training fields that say how sparse."""


@dataclass(frozen=True)
class Entry:
    """An SAE, its metrics, and what the records of its making say."""

    folder: str
    cfg: Mapping[str, Any]
    record: Mapping[str, Any]
    """metrics.json."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """Of the training's record: device, steps, tokens."""
    studies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What was studied of it: `study.json` of each study, by its name."""

    @property
    def own(self) -> dict[str, Any]:
        """Our record of where the SAE comes from."""
        record: dict[str, Any] = self.cfg["metadata"]["saectl"]
        return record

    @property
    def imported(self) -> dict[str, Any] | None:
        """Which files of another project it was read from; None of one that was trained here."""
        return self.own.get("imported")

    @property
    def random(self) -> bool:
        """Whether its model's weights were drawn anew: a control."""
        return self.own["model"].get("reinit") is not None

    @property
    def chosen(self) -> bool:
        """Whether a study chose latents on some text and judged them on other text."""
        return any(name != "stability" for name in self.studies)

    @property
    def arch(self) -> str:
        """Its architecture in training."""
        arch = str(self.own.get("train", {}).get("arch") or self.own["arch"])
        return f"{arch} transcoder" if self.out_site else arch

    @property
    def stored(self) -> str:
        """The architecture that the folder holds."""
        return str(self.cfg["architecture"])

    @property
    def loads(self) -> bool:
        """Whether SAELens has that architecture."""
        return self.stored not in (TRANSCODERS["topk", False], TRANSCODERS["topk", True])

    @property
    def out_site(self) -> str | None:
        """The site that a transcoder predicts."""
        return self.own.get("out_site")

    @property
    def site(self) -> str:
        """Where it reads and, of a transcoder, what it predicts."""
        site = str(self.own["site"])
        return f"{site} to {self.out_site}" if self.out_site else site

    @property
    def tensor(self) -> str:
        """The exact tensor that it reads."""
        return _tensor(self.own.get("site"), self.cfg["metadata"].get("hf_hook_name"))

    @property
    def out_tensor(self) -> str:
        """The exact tensor that a transcoder predicts."""
        return _tensor(self.out_site, self.cfg["metadata"].get("hf_hook_name_out"))

    @property
    def sparsity(self) -> str:
        """How it is made sparse, and how much."""
        train = self.own.get("train", {})
        method = METHODS.get(str(train.get("arch") or self.own["arch"]), UNKNOWN)
        said = [f"{n} {train[n]}" for n in SPARSITY if train.get(n) is not None]
        return f"{method} ({', '.join(said)})" if said else method

    @property
    def hyperparameters(self) -> list[tuple[str, str]]:
        """Every field of the training, as it was asked for; one that was left out took saectl's
        default."""
        train = self.own.get("train", {})
        return [(n, "left to its default" if v is None else f"{v}") for n, v in train.items()]

    @property
    def seeds(self) -> str:
        """Of weights, of the order of data, of the split."""
        train, data = self.own.get("train", {}), self.own.get("data", {})
        order = train.get("data_seed")
        seed = said(train.get("seed"))
        return f"{seed} (order of data {seed if order is None else order}, split " + (
            f"{said(data.get('seed'))})"
        )

    @property
    def trained(self) -> str:
        """On how many tokens, in how many steps."""
        tokens, steps = self.made.get("tokens"), self.made.get("steps")
        return UNKNOWN if tokens is None or steps is None else f"{tokens:,} in {steps:,} steps"

    @property
    def parallel(self) -> str:
        """The processes that trained it, where they were several."""
        mesh = self.own.get("parallel")
        if not mesh:
            return "1 process"
        return f"{mesh['processes']} processes (data {mesh['data']}, latent {mesh['latent']})"

    @property
    def controls(self) -> list[Control]:
        """What was judged beside it."""
        return [Control(c) for c in self.record.get("controls", [])]

    @property
    def studied(self) -> list[Studied]:
        """What was studied of it, in the order of the studies' names."""
        return [Studied(name, record) for name, record in self.studies.items()]

    @property
    def names(self) -> list[str]:
        """Its metrics, in the order of the record."""
        return list(self.record["metrics"])

    @property
    def spliced(self) -> bool:
        """Whether its reconstruction was put into the model's forward."""
        return self.record["metrics"].get("ce.spliced_v1", {}).get("value") is not None

    @property
    def bootstrap(self) -> str:
        """How the intervals were made."""
        how = self.record.get("bootstrap")
        if not how:
            return UNKNOWN
        return (
            f"{how['level']:.0%} percentile bootstrap over {how['unit']}s, {how['resamples']} "
            f"resamples, seed {how['seed']}"
        )

    @property
    def counted(self) -> str:
        """Of how many held-out tokens the metrics are."""
        tokens, made = self.record.get("tokens"), self.record.get("predictions")
        if tokens is None:
            return UNKNOWN
        return f"{tokens:,} tokens" + (f", {made:,} predictions" if made else "")

    @property
    def outliers(self) -> str:
        """The norm above which no activation counted."""
        if self.own["mask"].get("outlier_multiple") is None:
            return "none"
        limit = self.record.get("outlier_norm")
        return UNKNOWN if limit is None else f"{limit:.6g}"

    def m(self, name: str, form: str) -> str:
        """A metric for a table; `-` where it is null or was not measured."""
        return _value(self.record, name, form)

    def i(self, name: str, form: str) -> str:
        """A metric with its interval."""
        return _with_interval(self.record, name, form)

    def why(self, name: str) -> str:
        """Why a metric is null; empty where it is not."""
        return str(self.record["metrics"][name].get("reason") or "")


@dataclass(frozen=True)
class Control:
    """What was judged beside an SAE, at its L0."""

    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """pca, neurons, random."""
        return str(self.record["name"])

    @property
    def k(self) -> str:
        """How many components a token has."""
        return "-" if self.record["k"] is None else str(self.record["k"])

    @property
    def reason(self) -> str:
        """Why there is none."""
        return str(self.record.get("reason") or "")

    def m(self, name: str, form: str) -> str:
        """See `Entry.m`."""
        return _value(self.record, name, form)

    def i(self, name: str, form: str) -> str:
        """See `Entry.i`."""
        return _with_interval(self.record, name, form)


@dataclass(frozen=True)
class Studied:
    """One study of an SAE."""

    name: str
    record: Mapping[str, Any]

    @property
    def controls(self) -> list[str]:
        """What stood in the SAE's place."""
        return list(dict.fromkeys(f["control"] for f in self._whole() if f["control"]))

    @property
    def metrics(self) -> list[str]:
        """Figures over all that counts, and those by `k=`."""
        return list(dict.fromkeys(f"{f['metric']} {f['slice']}" for f in self._whole()))

    def i(self, metric: str, control: str | None = None) -> str:
        """A figure with its interval; why there is none; `-` where it was not asked."""
        for f in self._whole():
            if f["control"] == control and f"{f['metric']} {f['slice']}" == metric:
                if f["value"] is None:
                    return f"- ({f['reason']})"
                ends = "" if f["low"] is None else f" [{f['low']:.4g}, {f['high']:.4g}]"
                return f"{f['value']:.4g}{ends}"
        return "-"

    def _whole(self) -> list[Mapping[str, Any]]:
        return [f for f in self.record["figures"] if f["slice"] == "kept" or f["slice"][:2] == "k="]


def said(value: Any) -> str:
    """A value, or that nobody stated it."""
    return UNKNOWN if value in (None, "") else str(value)


def _tensor(site: Any, module: Any) -> str:
    side = SIDES.get(site)
    return UNKNOWN if side is None or not module else f"{side} of `{module}`"


def _value(record: Mapping[str, Any], name: str, form: str) -> str:
    value = record["metrics"].get(name, {}).get("value")
    return "-" if value is None else format(value, form)


def _with_interval(record: Mapping[str, Any], name: str, form: str) -> str:
    value, found = _value(record, name, form), record.get("intervals", {}).get(name)
    if value == "-" or not found or found["low"] is None:
        return value
    return f"{value} [{found['low']:{form}}, {found['high']:{form}}]"
