"""The asynchronous client. `_sync` is written from this package by `sdk/unasync.py`.

Only `_io.py` and `_calls.py` exist in two handwritten versions: they are the
seam at which waiting happens.
"""
