"""What is shared across seeds: known rows, in another order and turned away by a known angle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sae_cli.sae.base import SAE
from sae_cli.spec.studies import StabilityStudy
from sae_cli.studies import stability
from sae_cli.studies.bench import Figure

D, N = 24, 16


class Fake:
    """A bench that has activations alone."""

    def __init__(self, saes: dict[str, SAE], twins: dict[str, tuple[SAE, ...]]) -> None:
        self.saes, self.twins = saes, twins
        self.leave = lambda where: None
        self.asked: list[int | None] = []

    def text(self, split: str, tokens: int | None = None) -> Any:
        assert split == "heldout"
        self.asked.append(tokens)
        seen: Any = Fake.__new__(Fake)
        seen.acts = torch.eye(D).repeat(2, 1)[None]
        seen.keep = torch.ones(1, 2 * D, dtype=torch.bool)
        yield seen


def sae(rows: torch.Tensor, dead: int = 0) -> SAE:
    """Latent i is coordinate i; the first `dead` never fire."""
    encoder = torch.eye(D)[:, :N].clone()
    encoder[:, :dead] = 0
    return SAE("relu_l1", encoder, rows.clone(), torch.zeros(N), torch.zeros(D))


def rows() -> torch.Tensor:
    return torch.eye(D)[:N]


def studied(own: SAE, *twins: SAE, **spec: Any) -> list[Figure]:
    bench: Any = Fake({"a": own}, {"a": twins})
    return stability.run(StabilityStudy(**spec), bench)["a"].figures


def value(figures: list[Figure], metric: str, control: str | None = None) -> float | None:
    (found,) = [f for f in figures if f.metric == metric and f.control == control]
    return found.value


def test_the_same_latents_in_another_order_are_all_shared() -> None:
    found = studied(sae(rows()), sae(rows().flip(0)))
    assert [value(found, name) for name in stability.ALL] == [1.0, 1.0, 1.0]
    assert 0 < (value(found, "stability.mmcs_v1", "random") or 0) < 0.8


def test_a_row_that_was_turned_counts_by_its_cosine() -> None:
    turned = rows()
    for i, cosine in enumerate((0.9, 0.6)):
        turned[i, i], turned[i, D - 1 - i] = cosine, (1 - cosine**2) ** 0.5
    found = studied(sae(rows()), sae(turned))
    want = (N - 2 + 0.9 + 0.6) / N
    assert value(found, "stability.mmcs_v1") == pytest.approx(want, abs=1e-6)
    assert value(found, "stability.shared_v1") == (N - 1) / N
    assert value(found, "stability.matched_v1") == (N - 1) / N


def test_two_latents_that_share_a_twin_are_matched_once() -> None:
    doubled = rows()
    doubled[1] = doubled[0]
    found = studied(sae(doubled), sae(rows()))
    assert value(found, "stability.shared_v1") == 1.0
    assert value(found, "stability.matched_v1") == (N - 1) / N


def test_dead_latents_do_not_count_on_either_side() -> None:
    own, twin = sae(rows(), dead=4), sae(rows(), dead=6)
    found = studied(own, twin)
    assert {f.n for f in found} == {N - 4}
    assert value(found, "stability.shared_v1") == (N - 6) / (N - 4)
    reasons = {f.reason for f in studied(own, sae(rows(), dead=N))}
    assert reasons == {stability.DEAD}


def test_figures_are_means_over_twins() -> None:
    found = studied(sae(rows()), sae(rows()), sae(rows(), dead=N // 2))
    assert value(found, "stability.shared_v1") == 0.75


def test_without_a_twin_all_is_null_and_no_text_is_read() -> None:
    bench: Any = Fake({"a": sae(rows())}, {})
    found = stability.run(StabilityStudy(), bench)["a"]
    assert [(f.value, f.reason) for f in found.figures] == [(None, stability.ALONE)] * 3
    assert bench.asked == []


def test_too_many_latents_are_not_matched_and_say_so() -> None:
    found = studied(sae(rows()), sae(rows()), match_up_to=N - 1)
    assert value(found, "stability.shared_v1") == 1.0
    (matched,) = [f for f in found if f.metric == "stability.matched_v1" and f.control is None]
    assert matched.value is None and "match_up_to" in (matched.reason or "")


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(3))
    noisy = torch.nn.functional.normalize(rows() + 0.2 * noise, dim=1)
    before = studied(sae(rows()), sae(noisy))
    monkeypatch.setattr(stability, "CELLS", 3 * N)
    after = studied(sae(rows()), sae(noisy))
    for one, two in zip(before, after, strict=True):
        assert one.value == pytest.approx(two.value, abs=1e-6)


def test_the_random_rows_are_no_beginning_of_an_sae() -> None:
    """Trainers draw with torch from small seeds."""
    from sae_cli.sae.controls import random_rows

    drawn = random_rows(64, D, torch.device("cpu"))
    for seed in range(4):
        begun = torch.randn(64, D, generator=torch.Generator().manual_seed(seed))
        begun = torch.nn.functional.normalize(begun, dim=1)
        assert float((drawn * begun).sum(1).abs().max()) < 0.9
    assert np.allclose(drawn.norm(dim=1), 1)
