"""Cases for a client SDK."""
