"""The feature browser: a folder of plain files that opens from disk, without network or server."""
