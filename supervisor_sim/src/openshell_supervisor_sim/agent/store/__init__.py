"""What outlives a call: the journal and the staging files."""
