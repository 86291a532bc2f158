"""Sparse autoencoders in plain torch: inference, the architectures, and their training step."""
