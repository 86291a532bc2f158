"""A training step's operations as Triton kernels, for GPUs.

Importing this package needs no Triton: `choice` says who gets them. `plain` has the same operations
in plain torch, for comparison.
"""
