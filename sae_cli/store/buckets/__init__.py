"""The same tables in a bucket of an object store."""
