"""Public methods for directories."""
