"""Explanations of latents: examples, patterns that predict, a protocol that scores, a judge."""
