"""The file methods that are proposed to upstream."""
