"""What a calibration holds for, and whether this is it: an SAE, a model and a tokenizer by what
decides their numbers, never by where they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from sae_cli.cli.named import Named
from sae_cli.errors import UsageError
from sae_cli.plan.pin import builtin_digest, digest
from sae_cli.spec.models import cached_snapshot
from sae_cli.spec.rules import Calibration, ModelIdentity, Rule, Rules, SaeIdentity
from sae_cli.store.atomic import sha256_of

if TYPE_CHECKING:  # torch stays away until a verb needs it
    from sae_cli.studies.watch.live import Live, Reader


def sae_identity(named: Named, live: Live) -> SaeIdentity:
    """Of an SAE that was loaded."""
    return SaeIdentity(
        name=named.name,
        sha256=sha256_of(named.folder / "sae_weights.safetensors"),
        architecture=str(live.cfg["architecture"]),
        k=live.sae.k,
        layer=live.tap.layer,
        site=live.tap.site,
        mask=live.mask.model_dump(mode="json"),
        outlier_norm=named.limit,
    )


def model_identity(named: Named, reader: Reader) -> ModelIdentity:
    """Of a model that was loaded. One of the hub, read from its cache, is its commit; any other is
    the digest of its files."""
    spec, said = reader.spec, named.own["model"]
    hub, commit = spec.hf, spec.revision
    if hub is None and spec.path is not None and said.get("hf") is not None:
        snapshot = cached_snapshot(str(said["hf"]), str(said.get("revision")))
        if snapshot is not None and snapshot.resolve() == Path(spec.path).resolve():
            hub, commit = str(said["hf"]), snapshot.name
    files = None
    if hub is None:
        files = builtin_digest() if spec.builtin is not None else digest(Path(str(spec.path)))
    return ModelIdentity(
        name=hub or spec.builtin or "local",
        revision=commit,
        digest=files,
        dtype=spec.dtype,
        attn_implementation=spec.attn_implementation,
        reinit=spec.reinit,
        tokenizer=_tokenizer(reader),
    )


def _tokenizer(reader: Reader) -> str:
    """sha256 of what makes tokens of a text, and a text of messages."""
    tokenizer = reader.tokenizer
    core = getattr(tokenizer, "backend_tokenizer", None)
    words = core.to_str() if core is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{words}\0{tokenizer.chat_template}".encode()).hexdigest()


def hold_to(calibration: Calibration, sae: SaeIdentity, model: ModelIdentity, path: Path) -> None:
    """Raise UsageError, with all that differs, unless both are those of the calibration."""
    pairs = [
        *_differing("SAE", calibration.sae.model_dump(), sae.model_dump()),
        *_differing("model", calibration.model.model_dump(), model.model_dump()),
    ]
    if pairs:
        raise UsageError(
            f"{path} was calibrated on something else, and its thresholds mean nothing here:\n  "
            + "\n  ".join(pairs),
            hint=f"calibrate for this one: saectl monitor {path} --calibrate NEGATIVES.jsonl",
        )


def _differing(of: str, then: dict[str, object], now: dict[str, object]) -> list[str]:
    return [
        f"{of}: {name} {_short(then[name])} then, {_short(now[name])} now"
        for name in then
        if then[name] != now[name] and (of, name) != ("SAE", "name")
    ]


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == 64 and " " not in text else text


def runnable(rules: Rules, path: Path) -> None:
    """Raise UsageError unless every rule has a threshold that was written for it or found for it as
    it stands."""
    for rule in rules.rules:
        if rule.calibrated is not None:
            _unchanged(rule, rules, path)
        elif rule.threshold is None:
            raise UsageError(
                f"rule {rule.name} of {path} has no threshold",
                hint="write one, or find it on texts that the rule should not fire on: "
                f"saectl monitor {path} --calibrate NEGATIVES.jsonl",
            )


def _unchanged(rule: Rule, rules: Rules, path: Path) -> None:
    assert rule.calibrated is not None
    what = None
    if rules.calibration is None:
        what = "the file's `calibration`, which says what it holds for, is gone"
    elif rule.calibrated.rule != rule.digest(rules):
        what = "features, over, target_fpr, chat or max_tokens have changed since"
    elif rule.calibrated.threshold != rule.threshold:
        what = f"its threshold is {rule.threshold}, and {rule.calibrated.threshold} was found"
    if what is not None:
        raise UsageError(
            f"rule {rule.name} of {path} is not as it was calibrated: {what}",
            hint="calibrate it again, or take out its `calibrated` to use a threshold of your own",
        )
