"""Rules without input and output: sessions, relays, limits."""
