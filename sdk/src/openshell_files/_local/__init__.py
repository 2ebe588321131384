"""Files, keys and names on this side of the connection. Blocking; used by both flavours."""
