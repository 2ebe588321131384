"""Rules of the simulation: what requests may say, what records hold."""
