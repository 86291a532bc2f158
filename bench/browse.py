"""What the one pass over a text costs, against tokens and against features.

    python bench/browse.py [--rounds 3] [--tokens 65536] [--features 1024] [--k 16] [--d 32]

Two series, each round in another order: the same SAE on 1, 2 and 4 times the text, and on the same
text SAEs of 1, 2, 4 and 8 times the features that fire as often. Printed are the CPU seconds of
encoding (the SAE's own products, which grow with its features whoever looks on) and of what the
dashboards add to it, and ratios of the latter to the first of its series, of the whole pass and of
its second half, when most features hold what they can: medians (least to greatest) over rounds,
each ratio within one round. Activations are random, features more and less frequent. A site of
65,536 features is written at the end, with its size.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sae_cli.report.browser.site import Site
from sae_cli.sae.base import SAE
from sae_cli.store.dashboards import Corpus, Dashboard
from sae_cli.studies.dashboards.build import fired
from sae_cli.studies.dashboards.collect import EDGES, Collector, Sizes

CONTEXT, BATCH = 128, 4096
SIZES = Sizes()


def a_topk(features: int, d: int, k: int) -> SAE:
    """Random, with unit rows; some features fire often, most seldom."""
    rows = torch.nn.functional.normalize(torch.randn(features, d), dim=1)
    return SAE("topk", rows.T.contiguous(), rows, torch.randn(features), torch.zeros(d), k=k)


Passed = tuple[float, float, float, Collector]


def passed(sae: SAE, tokens: int) -> Passed:
    """Seconds of encoding, of collecting, of its second half, and what was collected."""
    blocks = tokens // CONTEXT
    collector = Collector(sae.d_sae, blocks * -(-CONTEXT // SIZES.window), SIZES)
    generator = torch.Generator().manual_seed(1)
    encoding = collecting = late = 0.0
    per = BATCH // CONTEXT
    for start in range(0, blocks, per):
        acts = torch.randn(per, CONTEXT, sae.d_in, generator=generator)
        keep: NDArray[np.bool_] = np.ones((per, CONTEXT), bool)
        begin = time.process_time()
        found = fired(sae, acts, keep)
        middle = time.process_time()
        collector.add(keep, start * (CONTEXT // SIZES.window), *found)
        end = time.process_time()
        encoding, collecting = encoding + middle - begin, collecting + end - middle
        if 2 * start >= blocks:
            late += end - middle
    return encoding, collecting, late, collector


def series(name: str, cases: dict[int, Callable[[], Passed]], rounds: int) -> None:
    """Time all cases in each round, the first of which warms up, and print them."""
    times: dict[int, list[tuple[float, float, float]]] = {size: [] for size in cases}
    for number in range(rounds + 1):
        for size in list(cases)[:: -1 if number % 2 else 1]:
            *seconds, _ = cases[size]()
            if number:
                times[size].append(tuple(seconds))
    first = next(iter(cases))
    print(f"{name:>10}  encoding  dashboards  ratio               ratio of second halves")
    for size, found in times.items():
        seconds = [statistics.median(t[i] for t in found) for i in (0, 1)]
        whole, late = (
            [mine[i] / base[i] for mine, base in zip(found, times[first], strict=True)]
            for i in (1, 2)
        )
        print(
            f"{size:>10,}  {seconds[0]:7.2f}s  {seconds[1]:9.2f}s  "
            + "  ".join(
                f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in (whole, late)
            )
        )


def site_of(features: int, tokens: int, k: int) -> None:
    """Write a site of so many features and print its size. Their weights are not looked at."""
    *_, found = passed(a_topk(features, 32, k), tokens)
    sample, groups = found.sample()
    dice = np.random.default_rng(0)
    ids = dice.integers(0, 30_000, (tokens // CONTEXT, CONTEXT)).astype(np.int32)
    dashboard = Dashboard(
        "made-up", {"model": "random"}, found.tokens, found.fired, found.total, found.largest,
        found.windows, found.histogram, EDGES, found.top(), sample, groups, found.idle(),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        with Site(Path(folder) / "site") as site:
            text = site.text(
                Corpus(ids, SIZES.window, "random"), lambda some: [f" w{i}" for i in some], 30_000
            )
            site.add(dashboard, text)
        seconds = time.process_time() - begin
    print(
        f"a site of {features:,} features on {tokens:,} tokens, without what weights say: "
        f"{site.bytes / 1e6:.0f} MB, written in {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--d", type=int, default=32)
    given = parser.parse_args()
    torch.manual_seed(0)
    sae = a_topk(given.features, given.d, given.k)
    by_tokens = {given.tokens * n: lambda n=n: passed(sae, given.tokens * n) for n in (1, 2, 4)}
    series("tokens", by_tokens, given.rounds)
    by_features = {
        given.features * n: lambda n=n: passed(
            a_topk(given.features * n, given.d, given.k), given.tokens
        )
        for n in (1, 2, 4, 8)
    }
    series("features", by_features, given.rounds)
    site_of(65_536, given.tokens, given.k)


if __name__ == "__main__":
    main()
