"""The whole YAML of a sweep, validated once and frozen. Imports nothing heavy."""
