"""Cases of every role; each module registers its own by `registry.case`."""
