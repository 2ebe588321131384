"""Rules of downloads: checks of the stream, and the range that is fetched next."""
