"""State that outlives a call: the journal and the staging files."""
