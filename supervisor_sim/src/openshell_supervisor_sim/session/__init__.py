"""The session with the gateway: connection, heartbeats, token."""
