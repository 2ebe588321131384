"""System calls on files, by descriptor."""
