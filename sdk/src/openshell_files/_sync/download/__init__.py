"""Download of one file: attempts and sinks."""
