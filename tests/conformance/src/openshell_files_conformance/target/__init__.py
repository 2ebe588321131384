"""How an implementation is started, found and spoken to."""
