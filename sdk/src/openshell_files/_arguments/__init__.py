"""What callers may give: checked once, before anything else happens."""
