"""One relay as a byte stream, and its target."""
