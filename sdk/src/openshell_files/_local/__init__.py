"""Local files, keys and variables. Blocking; both flavours use it."""
