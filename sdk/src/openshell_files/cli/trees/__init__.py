"""Directories as sources of `upload` and `download`."""
