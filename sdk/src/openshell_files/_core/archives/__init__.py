"""Rules of archives, without I/O."""
