"""What was found, gathered from the records on disk. Computes nothing and imports no torch."""
