"""Rules of the options: which uploads may have lanes, how long a caller may wait for its source."""
