"""Longer contexts and chats: joined blocks are what packing would give, and slices are what they
say they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from judging import Sweep

from sae_cli.errors import SpecError
from sae_cli.lm import masks
from sae_cli.lm.load import load_model, load_tokenizer
from sae_cli.lm.pack import Packer
from sae_cli.plan.place import folder
from sae_cli.sae.base import SAE
from sae_cli.spec.stages import DataSpec, EvalSpec, ModelSpec
from sae_cli.stages.eval_text import Text, Texts
from sae_cli.store.blocks import BlockReader, BlockWriter
from sae_cli.store.weights import load_sae

TINY = ModelSpec(builtin="tiny", dtype="float32")
CPU = torch.device("cpu")
FEW = ("matrix.layer=[2]", "matrix.site=[mlp_out]")
SETS = (*FEW, "eval.contexts=[256, 128, 1024]", "eval.chat=true", "eval.controls=[pca]")
LONG = ("context=128:kept", "context=128:beyond", "context=256:kept", "context=256:beyond")
CHATS = ("chat", "plain", "chat:assistant", "chat:system", "chat:user")


def packed(path: Path, context: int, first: int = 1) -> BlockReader:
    data = DataSpec.model_validate(
        {"tokens": 2048, "heldout_tokens": 1024, "context": context,
         "mask": {"first_positions": first}}
    )  # fmt: skip
    packer = Packer(data, load_tokenizer(TINY), group=4)
    wanted = {str(part): n for part, n in packer.wanted.items()}
    with BlockWriter(path, context, wanted, 4) as writer:
        for g in packer.blocks():
            writer.write(g.part, g.tokens, g.document, g.position, g.reasons)
    return BlockReader(path)


@pytest.mark.parametrize("first", [1, 3])
def test_joined_blocks_are_what_packing_at_that_context_gives(tmp_path: Path, first: int) -> None:
    joined = Text(packed(tmp_path / "short", 64, first), EvalSpec(batch_tokens=512), CPU, 4)
    whole = Text(packed(tmp_path / "long", 256, first), EvalSpec(batch_tokens=512), CPU)
    pairs = list(zip(joined, whole, strict=True))
    assert len(pairs) == 2 and joined.tokens == whole.tokens == 1024
    for (done, a), (also, b) in pairs:
        assert done == also and torch.equal(a.tokens, b.tokens)
        assert np.array_equal(a.reasons, b.reasons)
        assert torch.equal(a.documents, b.documents)
        assert (a.reasons & masks.FIRST).astype(bool).sum() == first * len(a.reasons)
        beyond = torch.arange(256) >= 64
        assert torch.equal(a.parts["beyond"], beyond.expand(len(a.tokens), -1))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    made = Sweep(tmp_path_factory.mktemp("judged"), *SETS)
    made.train()
    made.run(made.evals)
    assert made.failed == {}
    return made


def record(sweep: Sweep, at: int = 0) -> dict[str, object]:
    place = folder(sweep.workspace, sweep.evals[at]).path
    found: dict[str, object] = json.loads((place / "metrics.json").read_text("utf-8"))
    return found


def test_every_slice_has_every_number(judged: Sweep) -> None:
    for each in (record(judged), record(judged)["controls"][0]):
        slices = each["slices"]
        assert set(LONG) | set(CHATS) <= set(slices)
        for name in (*LONG, *CHATS):
            assert slices[name]["metrics"].keys() == each["metrics"].keys()
            assert slices[name]["intervals"].keys() == each["intervals"].keys()
        for name in (*LONG, "chat", "plain", "chat:user", "chat:assistant"):
            assert slices[name]["metrics"]["fvu.pooled_v1"]["value"] > 0, name
            assert slices[name]["metrics"]["ce.delta_v1"]["value"] is not None, name


def test_a_context_that_the_model_has_no_positions_for_is_null_and_says_so(judged: Sweep) -> None:
    for name in ("context=1024:kept", "context=1024:beyond"):
        found = record(judged)["slices"][name]
        assert found["tokens"] == 0
        assert {m["value"] for m in found["metrics"].values()} == {None}
        assert {m["reason"] for m in found["metrics"].values()} == {"the model has 512 positions"}


def test_chat_and_plain_are_all_that_counts_and_roles_are_part_of_chat(judged: Sweep) -> None:
    found = record(judged)
    slices = found["slices"]
    for count in ("tokens", "predictions"):
        chat, plain = slices["chat"][count], slices["plain"][count]
        assert chat > 0 and plain > 0 and chat + plain == found[count]
        said = [slices[name][count] for name in CHATS if ":" in name]
        assert min(said) > 0 and sum(said) < chat  # the template's own words are nobody's
    parts = [slices[name] for name in ("chat", "plain")]
    errors = [p["metrics"]["mse_v1"]["value"] * p["tokens"] for p in parts]
    whole = found["metrics"]["mse_v1"]["value"] * found["tokens"]
    assert sum(errors) == pytest.approx(whole, rel=1e-12)


def test_numbers_of_a_long_context_are_those_of_whole_forwards_of_it(judged: Sweep) -> None:
    """Against plain float64 sums over forwards of joined blocks, made by nothing of ours."""
    at = next(i for i, s in enumerate(judged.evals) if ".mlp_out.topk.w64.k8" in s.slug)
    stage = judged.evals[at]
    blocks = BlockReader(folder(judged.workspace, stage.deps["tokens"]).path)
    n = blocks.n_blocks("heldout")
    tokens = torch.from_numpy(blocks.tokens("heldout", 0, n).astype(np.int64)).view(-1, 256)
    special = torch.from_numpy(blocks.reasons("heldout", 0, n) & masks.SPECIAL).view(-1, 256) != 0
    held = load_sae(folder(judged.workspace, stage.deps["train"]).path)
    sae = SAE.from_tensors(held.tensors, held.arch, held.k)
    model, seen = load_model(TINY, CPU), []
    layer = model.model.layers[stage.deps["cache"].work.layer].mlp
    keep = ~special
    keep[:, 0] = False
    limit = record(judged, at)["outlier_norm"]

    def look(_, __, output):
        seen.append(output.clone())
        loud = output.norm(dim=-1) > limit
        return torch.where((keep & ~loud)[..., None], sae.forward(output), output)

    clean = model(tokens).logits
    hook = layer.register_forward_hook(look)
    spliced = model(tokens).logits
    hook.remove()
    keep &= seen[0].norm(dim=-1) <= limit
    for name, chosen in (
        ("context=256:kept", keep),
        ("context=256:beyond", keep & (torch.arange(256) >= 64)),
    ):
        found = record(judged, at)["slices"][name]
        x = seen[0][chosen].double()
        error = (x - sae.forward(seen[0][chosen]).double()).square().sum()
        fvu = error / (x - x.mean(0)).square().sum()
        assert found["tokens"] == int(chosen.sum())
        assert found["metrics"]["fvu.pooled_v1"]["value"] == pytest.approx(float(fvu), rel=1e-6)
        losses = [
            torch.nn.functional.cross_entropy(
                logits[:, :-1][chosen[:, :-1]].double(), tokens[:, 1:][chosen[:, :-1]]
            )
            for logits in (clean, spliced)
        ]
        assert found["predictions"] == int(chosen[:, :-1].sum())
        delta = float(losses[1] - losses[0])
        assert found["metrics"]["ce.delta_v1"]["value"] == pytest.approx(delta, abs=1e-5)


def test_what_was_there_before_is_the_same_to_the_bit(judged: Sweep) -> None:
    plain = Sweep(judged.root, *FEW, "eval.controls=[pca]")
    plain.run(plain.evals)
    for at in range(len(plain.evals)):
        with_them, without = record(judged, at), record(plain, at)
        for name, part in without.items():
            if name not in ("slices", "controls"):
                assert with_them[name] == part
        assert all(with_them["slices"][n] == part for n, part in without["slices"].items())


def test_forwards_are_the_least_and_the_checks(judged: Sweep) -> None:
    made, clean, least = judged.forwards()
    batches = 2 + 2 + 2  # 1024 tokens in batches of 512, at 64, 128 and 256
    sites, saes, controls = 2, 3, 2  # a transcoder has no control
    assert clean == 2 * batches
    assert least == batches * (2 + 2 * sites + saes + controls)
    assert made == least + sites * 3  # of each layer and context


def test_texts_without_either_are_one_text(judged: Sweep) -> None:
    blocks = BlockReader(folder(judged.workspace, judged.graph.of("tokens")[0]).path)
    texts = Texts(blocks, EvalSpec(batch_tokens=512), load_model(TINY, CPU), CPU)
    assert list(texts.all) == [None] and texts.packed.parts == ()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("eval.contexts=[96]", "96 is no multiple, twice at least, of data.context, which is 64"),
        ("eval.contexts=[64]", "64 is no multiple, twice at least, of data.context"),
        ("eval.contexts=[2048]", "1024 held-out tokens have no context of 2048"),
    ],
)
def test_contexts_that_blocks_cant_be_joined_to_are_refused(
    tmp_path: Path, sets: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        Sweep(tmp_path, sets)
