"""Downloads, and descriptions of files."""
