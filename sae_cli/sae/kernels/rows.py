# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
"""How kernels hold a row of any length in registers.

A block of a kernel has 2^n places. A row of d numbers is held as two blocks, 2^n and what is left
rounded up, so that d = 2560 takes 2048 + 512 and not 4096; both are masked, and nothing beyond a
row is read.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LEAST = 16


def halves(d: int) -> dict[str, int]:
    """The lengths of the two blocks, as the arguments HEAD and TAIL of a kernel."""
    head = max(_LEAST, 1 << (d.bit_length() - 1))
    return {"HEAD": head, "TAIL": max(_LEAST, _at_least(d - head))}


def warps(d: int) -> int:
    """Warps of a program that holds rows of `d`, for 16 numbers of a row a thread or less.

    A program holds about five rows at once; so it stays below 64 registers a thread, and several
    programs share a multiprocessor and hide each other's waiting.
    """
    return min(16, max(1, _at_least(d) // 512))


def _at_least(n: int) -> int:
    """The least power of two that holds n."""
    return 1 << max(0, n - 1).bit_length()


@triton.jit
def load_row(table, row, d, HEAD: tl.constexpr, TAIL: tl.constexpr):
    """Row `row` (int64) of `table [m, d]`: two float32 blocks, 0 beyond d."""
    at = tl.arange(0, HEAD)
    rest = HEAD + tl.arange(0, TAIL)
    head = tl.load(table + row * d + at, mask=at < d, other=0.0).to(tl.float32)
    tail = tl.load(table + row * d + rest, mask=rest < d, other=0.0).to(tl.float32)
    return head, tail


@triton.jit
def zero_row(HEAD: tl.constexpr, TAIL: tl.constexpr):
    """A row of zeros."""
    return tl.zeros((HEAD,), tl.float32), tl.zeros((TAIL,), tl.float32)


@triton.jit
def store_row(table, row, head, tail, d, HEAD: tl.constexpr, TAIL: tl.constexpr):
    """Write what `load_row` read, in the table's number format."""
    at = tl.arange(0, HEAD)
    rest = HEAD + tl.arange(0, TAIL)
    tl.store(table + row * d + at, head, mask=at < d)
    tl.store(table + row * d + rest, tail, mask=rest < d)


@triton.jit
def dot(head, tail, other_head, other_tail):
    """The dot product of two rows."""
    return tl.sum(head * other_head, 0) + tl.sum(tail * other_tail, 0)
