"""Text of others on a terminal: what can move a cursor, change colours or hide is spelt out."""

from __future__ import annotations


def plainly(text: str) -> str:
    """`text` on one line, with every character that is not printable as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
