"""Directories on the disk: list, make, remove, move and copy entries (DIR-1)."""
