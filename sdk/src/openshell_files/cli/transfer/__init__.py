"""The commands that move files, and what they remember."""
