"""What the command prints: reports, words, progress."""
