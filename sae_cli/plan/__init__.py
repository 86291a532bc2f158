"""What a sweep amounts to: stages, keys, reasons, jobs. Imports no torch, touches no data."""
