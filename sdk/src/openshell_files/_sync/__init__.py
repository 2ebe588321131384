"""The blocking client, written from `_async` by `sdk/unasync.py`.

Only `_io.py` and `_calls.py` are written by hand: they are the seam at which
waiting happens.
"""
