"""The asynchronous flavour; `sdk/unasync.py` generates `_sync` from it."""
