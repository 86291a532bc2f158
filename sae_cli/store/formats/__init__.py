"""SAE files of other projects, written and read: one module a format."""
