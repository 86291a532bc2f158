"""Executors: who starts a stage, where. They ship no code and hold no truth; disk does."""
