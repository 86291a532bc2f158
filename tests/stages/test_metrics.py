"""Every metric against an independent float64 reference, and where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_cli.stages.losses import LossMeter, splice_metrics
from sae_cli.stages.metrics import Metric, ReconstructionMeter

D_IN, D_SAE, TOKENS = 12, 40, 300


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _reconstruction() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _random(TOKENS, D_IN, seed=0) * 3 + 2
    x_hat = 0.9 * x + 0.3 * _random(TOKENS, D_IN, seed=1)
    f = (_random(TOKENS, D_SAE, seed=2) - torch.linspace(-1, 4, D_SAE)).relu()
    return x, x_hat, f, torch.full((D_IN,), 1.9)


def _measure(
    x: Tensor, x_hat: Tensor, f: Tensor, mean: Tensor, cuts: tuple[int, ...] = ()
) -> ReconstructionMeter:
    meter = ReconstructionMeter(D_IN, D_SAE, mean)
    for part in zip(*(t.tensor_split(cuts) for t in (x, x_hat, f)), strict=True):
        meter.update(*part)
    return meter


def _value(metric: Metric) -> float:
    assert metric.value is not None, metric.reason
    return metric.value


def test_reconstruction_metrics_equal_their_formulas() -> None:
    x, x_hat, f, mean = _reconstruction()
    got = _measure(x, x_hat, f, mean).result(dense_threshold=0.2)
    a, b, z, m = (t.double().numpy() for t in (x, x_hat, f, mean))
    error, length = ((a - b) ** 2).sum(1), np.linalg.norm(a, axis=1)
    pooled = error.sum() / ((a - a.mean(0)) ** 2).sum()
    fires = (z > 0).mean(0)
    wanted = {
        "fvu.pooled_v1": pooled,
        "ev.pooled_v1": 1 - pooled,
        "ev.per_token_v1": np.mean(1 - error / ((a - m) ** 2).sum(1)),
        "mse_v1": error.mean(),
        "cosine_v1": np.mean((a * b).sum(1) / length / np.linalg.norm(b, axis=1)),
        "l0_v1": (z > 0).sum(1).mean(),
        "l1_v1": np.abs(z).sum(1).mean(),
        "shrinkage_v1": np.mean((b**2).sum(1)) / np.mean((a * b).sum(1)),
        "norm_ratio_v1": np.mean(np.linalg.norm(b, axis=1) / length),
        "norm_in_v1": length.mean(),
        "norm_out_v1": np.linalg.norm(b, axis=1).mean(),
        "dead_fraction_v1": (fires == 0).mean(),
        "dense_fraction_v1": (fires > 0.2).mean(),
    }
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert _value(got[name]) == pytest.approx(float(value), rel=1e-10), name
    assert 0 < wanted["dead_fraction_v1"] < 1 and 0 < wanted["dense_fraction_v1"] < 1


@pytest.mark.parametrize("cuts", [(), (1,), (7, 7, 100, 299), tuple(range(1, TOKENS))])
def test_how_tokens_are_batched_does_not_matter(cuts: tuple[int, ...]) -> None:
    parts = _reconstruction()
    whole, cut = _measure(*parts), _measure(*parts, cuts)
    for name, metric in whole.result().items():
        assert _value(cut.result()[name]) == pytest.approx(_value(metric), rel=1e-12), name
    assert torch.equal(cut.density(), whole.density())
    assert cut.histogram() == whole.histogram()


def test_a_perfect_reconstruction() -> None:
    x, _, f, mean = _reconstruction()
    got = _measure(x, x, f, mean).result()
    for name in ("ev.pooled_v1", "ev.per_token_v1", "cosine_v1", "shrinkage_v1", "norm_ratio_v1"):
        assert _value(got[name]) == pytest.approx(1.0, abs=1e-12), name
    assert _value(got["fvu.pooled_v1"]) == _value(got["mse_v1"]) == 0.0


def test_the_mean_as_reconstruction_explains_nothing() -> None:
    x, _, f, mean = _reconstruction()
    got = _measure(x, x.double().mean(0).expand_as(x).double(), f, mean).result()
    assert _value(got["fvu.pooled_v1"]) == pytest.approx(1.0, abs=1e-12)


def test_a_constant_bias_is_an_error_and_not_hidden_by_centring() -> None:
    x, _, f, mean = _reconstruction()
    got = _measure(x, x + 2.0, f, mean).result()
    assert _value(got["mse_v1"]) == pytest.approx(4.0 * D_IN, rel=1e-5)
    spread = float((x - x.mean(0)).double().square().sum())
    assert _value(got["fvu.pooled_v1"]) == pytest.approx(4.0 * D_IN * TOKENS / spread, rel=1e-5)


def test_one_sink_token_rules_the_pooled_form_and_hardly_moves_the_per_token_one() -> None:
    """Closed form: every token is off by one unit of length; one is rebuilt, and huge."""
    n, size = 256, 1000.0
    signs = torch.ones(n, D_IN)
    signs[::2] = -1.0
    f, mean = torch.ones(n + 1, D_SAE), torch.zeros(D_IN)
    x = torch.cat([signs, torch.full((1, D_IN), size)])
    x_hat = torch.cat([signs / 2, x[-1:]])
    kept, sink = _measure(x[:n], x_hat[:n], f[:n], mean), _measure(x[n:], x_hat[n:], f[n:], mean)
    both = kept.plus(sink).result()
    assert _value(kept.result()["ev.pooled_v1"]) == pytest.approx(0.75)
    assert _value(kept.result()["ev.per_token_v1"]) == pytest.approx(0.75)
    error, spread = n * D_IN / 4, D_IN * (n + size**2 - size**2 / (n + 1))
    assert _value(both["fvu.pooled_v1"]) == pytest.approx(error / spread, rel=1e-9)
    assert _value(both["ev.pooled_v1"]) > 0.999
    assert _value(both["ev.per_token_v1"]) == pytest.approx((0.75 * n + 1) / (n + 1))


def test_halving_every_activation_is_shrinkage_of_a_half() -> None:
    x, _, f, mean = _reconstruction()
    got = _measure(x, x / 2, f, mean).result()
    assert _value(got["shrinkage_v1"]) == pytest.approx(0.5)
    assert _value(got["norm_ratio_v1"]) == pytest.approx(0.5)
    assert _value(got["cosine_v1"]) == pytest.approx(1.0)


def test_latents_that_never_fire_are_dead_and_counted_apart() -> None:
    x, x_hat, f, mean = _reconstruction()
    meter = _measure(x, x_hat, torch.zeros_like(f), mean)
    got = meter.result()
    assert _value(got["dead_fraction_v1"]) == 1.0
    assert _value(got["l0_v1"]) == _value(got["dense_fraction_v1"]) == 0.0
    histogram = meter.histogram()
    assert histogram["zero"] == D_SAE and sum(histogram["counts"]) == 0  # type: ignore[arg-type]


def test_a_latent_stands_in_the_bin_of_its_density() -> None:
    meter = ReconstructionMeter(1, 4, torch.zeros(1))
    f = torch.zeros(1000, 4)
    f[:, 0], f[:100, 1], f[:1, 2] = 1.0, 1.0, 1.0
    meter.update(torch.ones(1000, 1), torch.ones(1000, 1), f)
    assert meter.density().tolist() == [1.0, 0.1, 0.001, 0.0]
    histogram = meter.histogram()
    edges, counts = histogram["edges"], histogram["counts"]
    assert isinstance(edges, list) and isinstance(counts, list)
    upper = [edges[i + 1] for i, n in enumerate(counts) for _ in range(int(n))]
    assert upper == [-3.0, -1.0, 0.0]
    assert (histogram["zero"], histogram["tokens"]) == (1, 1000)
    assert len(edges) == len(counts) + 1


def test_without_tokens_every_figure_is_null_with_the_reason() -> None:
    meter = ReconstructionMeter(D_IN, D_SAE, torch.zeros(D_IN))
    meter.update(torch.zeros(0, D_IN), torch.zeros(0, D_IN), torch.zeros(0, D_SAE))
    for name, metric in meter.result().items():
        assert metric == Metric(None, "no token was kept"), name


def test_tokens_that_do_not_vary_have_no_explained_variance() -> None:
    x = torch.full((50, D_IN), 1.0 / 3.0)
    got = _measure(x, x + 1, torch.ones(50, D_SAE), torch.full((D_IN,), 0.1)).result()
    still = Metric(None, "the kept tokens do not vary")
    assert got["fvu.pooled_v1"] == got["ev.pooled_v1"] == still
    assert _value(got["mse_v1"]) == pytest.approx(D_IN, rel=1e-6)


def test_zero_vectors_make_no_nan() -> None:
    x, x_hat, f, mean = _reconstruction()
    x[:3], x_hat[5:9] = 0.0, 0.0
    for name, metric in _measure(x, x_hat, f, mean).result().items():
        assert math.isfinite(_value(metric)), name


def test_a_reconstruction_that_is_not_finite_is_null_and_says_so() -> None:
    x, x_hat, f, mean = _reconstruction()
    x_hat[0, 0] = math.inf
    metric = _measure(x, x_hat, f, mean).result()["mse_v1"]
    assert metric.value is None and metric.reason == "the sum is inf"


BLOCKS, CONTEXT, VOCABULARY = 5, 33, 50


def _logits(seed: int, scale: float = 3.0) -> Tensor:
    return scale * _random(BLOCKS, CONTEXT, VOCABULARY, seed=seed)


def _text() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (BLOCKS, CONTEXT), generator=generator)
    keep = torch.rand(BLOCKS, CONTEXT, generator=generator) < 0.7
    keep[:, -1] = True
    return tokens, keep


def _reference(clean: Tensor, other: Tensor, tokens: Tensor, keep: Tensor) -> dict[str, float]:
    """One prediction at a time, in numpy."""
    sums = {"n": 0.0, "clean": 0.0, "other": 0.0, "kl": 0.0, "agree": 0.0}
    for b in range(tokens.shape[0]):
        for t in range(tokens.shape[1] - 1):
            if not keep[b, t]:
                continue
            p, q = (
                np.exp(v - v.max()) / np.exp(v - v.max()).sum()
                for v in (clean[b, t].double().numpy(), other[b, t].double().numpy())
            )
            target = int(tokens[b, t + 1])
            sums["n"] += 1
            sums["clean"] -= math.log(p[target])
            sums["other"] -= math.log(q[target])
            sums["kl"] += float((p * np.log(p / q)).sum())
            sums["agree"] += p.argmax() == q.argmax()
    return sums


def test_loss_metrics_equal_a_count_by_hand() -> None:
    tokens, keep = _text()
    clean = _logits(1)
    changed = clean + _logits(2, 1.0)
    meter = LossMeter()
    meter.update(clean, changed, tokens, keep)
    wanted = _reference(clean, changed, tokens, keep)
    assert meter.n == wanted["n"] and meter.agree == wanted["agree"]
    assert meter.ce_clean == pytest.approx(wanted["clean"], rel=1e-6)
    assert meter.ce_changed == pytest.approx(wanted["other"], rel=1e-6)
    assert meter.kl == pytest.approx(wanted["kl"], rel=1e-5)


def test_a_prediction_counts_by_the_position_it_is_made_from() -> None:
    tokens, _ = _text()
    keep = torch.zeros(BLOCKS, CONTEXT, dtype=torch.bool)
    keep[2, 4] = keep[3, CONTEXT - 1] = True
    meter = LossMeter()
    clean = _logits(1)
    meter.update(clean, clean, tokens, keep)
    assert meter.n == 1, "the last position of a block predicts nothing inside it"
    expected = -float(clean[2, 4].log_softmax(0)[tokens[2, 5]])
    assert meter.ce_clean == pytest.approx(expected, rel=1e-6)


def _meters(scales: tuple[float, float, float]) -> tuple[LossMeter, LossMeter, LossMeter]:
    tokens, keep = _text()
    clean = torch.nn.functional.one_hot(tokens.roll(-1, 1), VOCABULARY) * 4.0 + _logits(1, 0.5)
    made = []
    for i, scale in enumerate(scales):
        meter = LossMeter()
        meter.update(clean, clean + _logits(2 + i, scale), tokens, keep)
        made.append(meter)
    return made[0], made[1], made[2]


def test_splice_metrics_are_ratios_of_pooled_means() -> None:
    spliced, zero, mean = _meters((0.5, 3.0, 2.0))
    got = {name: _value(metric) for name, metric in splice_metrics(spliced, zero, mean).items()}
    n = spliced.n
    assert got["ce.delta_v1"] == pytest.approx((spliced.ce_changed - spliced.ce_clean) / n)
    assert got["ce.delta_v1"] == pytest.approx(got["ce.spliced_v1"] - got["ce.clean_v1"])
    for name in ("zero", "mean"):
        ablated = got[f"ce.{name}_v1"]
        share = (ablated - got["ce.spliced_v1"]) / (ablated - got["ce.clean_v1"])
        assert got[f"ce_recovered.{name}_v1"] == pytest.approx(share, rel=1e-9)
        assert 0 < share < 1
    assert got["kl.spliced_v1"] == pytest.approx(spliced.kl / n)
    assert got["kl.zero_v1"] == pytest.approx(zero.kl / n)
    assert got["top1.agreement_v1"] == pytest.approx(spliced.agree / n)


def test_a_perfect_splice_loses_nothing() -> None:
    got = splice_metrics(*_meters((0.0, 3.0, 2.0)))
    assert _value(got["ce.delta_v1"]) == _value(got["kl.spliced_v1"]) == 0.0
    assert _value(got["top1.agreement_v1"]) == 1.0
    assert _value(got["ce_recovered.zero_v1"]) == _value(got["ce_recovered.mean_v1"]) == 1.0


def test_where_ablation_does_no_harm_nothing_can_be_recovered() -> None:
    got = splice_metrics(*_meters((0.5, 0.0, 2.0)))
    metric = got["ce_recovered.zero_v1"]
    assert metric.value is None and metric.reason is not None
    assert metric.reason.startswith("ablation does no harm: CE ")
    assert got["ce_recovered.mean_v1"].value is not None


def test_without_predictions_every_figure_is_null_with_the_reason() -> None:
    tokens, keep = _text()
    meter = LossMeter()
    meter.update(_logits(1), _logits(2), tokens, torch.zeros_like(keep))
    for name, metric in splice_metrics(meter, meter, meter).items():
        assert metric == Metric(None, "no token was kept"), name


def test_how_predictions_are_batched_does_not_matter() -> None:
    tokens, keep = _text()
    clean, changed = _logits(1), _logits(2)
    whole, parts = LossMeter(), LossMeter()
    whole.update(clean, changed, tokens, keep)
    for i in range(BLOCKS):
        row = slice(i, i + 1)
        parts.update(clean[row], changed[row], tokens[row], keep[row])
    assert (parts.n, parts.agree) == (whole.n, whole.agree)
    for name in ("ce_clean", "ce_changed", "kl"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-10), name


def test_bfloat16_logits_are_summed_in_higher_precision() -> None:
    tokens, keep = _text()
    clean = _logits(1).bfloat16()
    changed = _logits(2).bfloat16()
    low, high = LossMeter(), LossMeter()
    low.update(clean, changed, tokens, keep)
    high.update(clean.float(), changed.float(), tokens, keep)
    assert (low.ce_clean, low.ce_changed, low.kl) == (high.ce_clean, high.ce_changed, high.kl)


def test_tokens_that_the_clean_model_rules_out_make_no_nan() -> None:
    tokens, keep = _text()
    clean = _logits(1)
    clean[..., 0] = -math.inf
    tokens = tokens.clamp_min(1)
    meter = LossMeter()
    meter.update(clean, _logits(2), tokens, keep)
    assert math.isfinite(meter.kl) and math.isfinite(meter.ce_clean)
