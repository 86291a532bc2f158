"""What every feature of an SAE does, gathered in one pass: examples, histograms, weights."""
