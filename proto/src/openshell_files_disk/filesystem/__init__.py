"""System calls on files, and the reason of the error table for each errno."""
