"""The operations of a relay on the event loop: frames in, rules, disk work, frames out."""
