"""Disk: identities, places, records, activations, token blocks, and the order they are read in."""
