"""Tar archives of a tree: read into a `TreeReceiver`, and written from a `TreeSender` (ARC-1 ff.)."""
