"""Weights in published files: read, convert, merge."""
