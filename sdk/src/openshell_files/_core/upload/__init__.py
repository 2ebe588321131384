"""Rules of uploads: the plan, its requests and errors, lanes, and cleanup."""
