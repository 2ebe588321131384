"""Connects callers with supervisors: sessions, relay channels, the pool of relays, file frames."""
