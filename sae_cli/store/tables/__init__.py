"""Tables on disk: zarr v3 groups whose shards exist when a log says so."""
