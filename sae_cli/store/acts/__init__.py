"""Activations: gathered, encoded, measured, written, and read again in a shuffled order."""
