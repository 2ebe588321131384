"""Bearer tokens of calls."""
