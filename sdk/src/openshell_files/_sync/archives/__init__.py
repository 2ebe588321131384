"""Uploads that are unpacked, and directories as archives."""
