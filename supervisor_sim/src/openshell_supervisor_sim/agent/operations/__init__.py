"""Operations of a relay: from frames through the rules to the disk, on the event loop."""
