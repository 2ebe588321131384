"""Finds the sandbox that a caller means, and says which phase it is in."""
