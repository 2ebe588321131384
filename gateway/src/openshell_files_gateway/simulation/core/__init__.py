"""Rules of the simulation: checks of requests, records of sandboxes, pages of lists."""
