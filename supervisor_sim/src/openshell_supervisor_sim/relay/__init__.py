"""One relay as a byte stream, and what it leads to."""
