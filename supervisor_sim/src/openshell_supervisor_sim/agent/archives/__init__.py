"""Archives on the disk: unpack one while it arrives, make one while it is sent."""
