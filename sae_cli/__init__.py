"""saectl: suites of sparse autoencoders from a YAML sweep, in independent, resumable stages."""

__version__ = "0.1.0"
