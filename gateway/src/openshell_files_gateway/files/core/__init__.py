"""Rules of the file methods."""
