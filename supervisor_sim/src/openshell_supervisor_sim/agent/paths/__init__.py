"""From a caller's path to a descriptor inside the root."""
