"""Uploads: admission, receiving, publication, recovery."""
