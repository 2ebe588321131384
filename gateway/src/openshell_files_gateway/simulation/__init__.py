"""Makes the simulation whole: sandboxes that can be created, and commands in them."""
