"""Tasks with owners, the ends of streams, and threads that are waited for."""
