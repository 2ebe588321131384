"""The sandboxes of this gateway: lookup by id or name, membership, phases."""
