"""The development stack: identity provider, gateway and supervisors on loopback."""
