"""Verifies tokens of an OpenID Connect issuer: its documents, its keys, the checks."""
