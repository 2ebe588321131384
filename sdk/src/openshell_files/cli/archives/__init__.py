"""`upload --extract` and `download --archive`."""
