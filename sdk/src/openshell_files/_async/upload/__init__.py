"""Upload of one file: sources, attempts, lanes, freeing."""
