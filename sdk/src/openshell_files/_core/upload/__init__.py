"""Rules of uploads: what comes next, what is freed, what is known."""
