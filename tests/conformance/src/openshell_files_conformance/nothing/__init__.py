"""Implementations that do nothing, to see that the suite notices it: one refuses everything, one agrees to everything."""
