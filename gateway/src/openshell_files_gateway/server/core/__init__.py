"""Rules of the server: how fast a peer may be, how many transfers may run."""
