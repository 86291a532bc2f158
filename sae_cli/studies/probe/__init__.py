"""The parts of sparse probing: data sets, splits, pooled activations, probes, scores."""
