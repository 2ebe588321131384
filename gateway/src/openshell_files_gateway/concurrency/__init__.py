"""Tasks with owners, and the difference between an ended and a cancelled stream."""
