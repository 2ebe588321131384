"""Rules of the server: rate limits of peers, limits of concurrent transfers, requests of old SDKs."""
