"""The language model that is read: loading it, feeding it text, tapping it, editing it."""
