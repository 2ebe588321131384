"""Output of the command: reports, messages, progress."""
