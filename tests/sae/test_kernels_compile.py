"""Kernels compile for a GPU, which the interpreter can't say: types, shapes, registers.

Triton brings its own assembler, so this needs no GPU: every kernel is compiled for Hopper as its
public function would call it, and not launched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

COMPILE = """
import json, sys, torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Hopper:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

driver.set_active(Hopper())
launch, made = JITFunction.run, []

def compile_only(self, *given, grid, warmup, **named):
    kernel = launch(self, *given, grid=grid, warmup=True, **named)
    made.append([self.__name__, len(kernel.asm["cubin"]), kernel.metadata.shared])

JITFunction.run = compile_only
from sae_cli.sae.kernels import fused
from sae_cli.sae.kernels.lists import by_latent

dtype = getattr(torch, sys.argv[1])
rows, d, d_sae, k = 64, 2560, 64, 8
pre, z, W = torch.ones(rows, d_sae).to(dtype), torch.ones(rows, d).to(dtype), torch.ones(d_sae, d)
fused.top_k(pre, k)
fused.batch_top_k(pre, k)
values, indices = torch.ones(rows, k), torch.arange(k).repeat(rows, 1)
ends = torch.arange(0, rows * k + 1, k)
fused.bags(values.flatten(), indices.flatten(), ends, W.to(dtype), W[0])
lists = by_latent(indices, d_sae)
fused.backward(values, lists, z, z, W.to(dtype), tangent=True)
fused.dots(W.to(dtype), z, indices.flatten(), lists.sources, lists.ends)
moments, rates = torch.zeros(2, d_sae, d, dtype=dtype), dict(lr=0.1, beta1=0.9, beta2=0.99, seed=7)
for unit in (True, False):
    fused.adam(W, W, *moments, torch.ones(()), **rates, unit=unit, copy=W.bfloat16())
print(json.dumps(made))
"""
KERNELS = {
    *("_top_k", "_count", "_narrow", "_shares", "_write", "_bags"),
    *("_add_parts", "_backward", "_dots", "_unit_rows", "_anything"),
}
SHARED = 227 * 1024
"""Bytes of shared memory that a program may have on Hopper."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_kernel_compiles_for_hopper(dtype: str, tmp_path: Path) -> None:
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, dtype],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    made = json.loads(ended.stdout.splitlines()[-1])
    assert {name for name, _, _ in made} == KERNELS
    assert all(size > 0 and shared <= SHARED for _, size, shared in made)
