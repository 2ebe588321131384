"""The file methods, which this project proposes to upstream."""
