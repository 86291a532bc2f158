"""A sweep whose release has every format in it: what goes out by each door, and comes in again."""

from __future__ import annotations

FORMATS = (
    "saelens", "sparsify", "dictionary_learning", "qwen-scope", "gemma-scope", "circuit-tracer",
)  # fmt: skip
SWEEP = """\
name: doors
model: tiny
data: {tokens: 16_384, heldout_tokens: 4096, context: 64}
cache: {batch_tokens: 2048, chunk_bytes: 524_288}
train: {width: 64, num_tokens: 20_480, batch_size: 512, shuffle_tokens: 4096}
eval: {batch_tokens: 1024}
release:
  formats: [saelens, sparsify, dictionary_learning, qwen-scope, gemma-scope, circuit-tracer]
matrix:
  include:
    - {layer: 1, site: resid_post, arch: topk, k: 8}
    - {layer: 1, site: resid_post, arch: jumprelu, l0: 8}
    - {layer: 1, site: resid_post, arch: relu_l1, l1: 5}
    - {layer: 1, site: mlp_in, arch: topk, k: 8, out_site: mlp_out}
    - {layer: 0, site: mlp_in, arch: jumprelu, l0: 8, out_site: mlp_out, skip: true}
    - {layer: 1, site: mlp_in, arch: jumprelu, l0: 8, out_site: mlp_out, skip: true}
"""
WRITTEN = {
    "saelens": 6, "sparsify": 2, "dictionary_learning": 3, "qwen-scope": 1, "gemma-scope": 2,
    "circuit-tracer": 2,
}  # fmt: skip
"""How many SAEs each format holds: those that it has words for."""
