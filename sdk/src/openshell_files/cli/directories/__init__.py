"""Commands for directories: ls, mkdir, rm, mv, cp."""
