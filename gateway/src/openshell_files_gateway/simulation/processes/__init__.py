"""Sandboxes as directories and processes of this machine."""
