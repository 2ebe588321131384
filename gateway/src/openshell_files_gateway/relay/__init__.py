"""Connects callers with supervisors: sessions, relay channels, file frames."""
