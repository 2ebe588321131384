"""Rules of downloads: what is believed of a stream, what is asked for next."""
