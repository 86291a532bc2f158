"""What our architectures are called in the folders that SAELens loads. No torch."""

from __future__ import annotations

ARCHITECTURES = {"topk": "topk", "relu_l1": "standard", "jumprelu": "jumprelu"}
"""Our architecture names and those of SAELens."""
TRANSCODERS = {
    ("topk", False): "topk_transcoder",
    ("topk", True): "topk_skip_transcoder",
    ("jumprelu", False): "jumprelu_transcoder",
    ("jumprelu", True): "jumprelu_skip_transcoder",
}
"""The same for transcoders, without and with a skip; those of topk are our own."""
NAMES = {theirs: ours for ours, theirs in ARCHITECTURES.items()} | {
    theirs: ours for (ours, _), theirs in TRANSCODERS.items()
}
"""What cfg.json says, and our architecture."""
