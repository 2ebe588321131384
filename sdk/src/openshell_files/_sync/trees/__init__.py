"""Transfer of trees: calls, drivers, public methods."""
