"""Cases for a gateway."""
