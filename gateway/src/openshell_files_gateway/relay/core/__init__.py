"""Rules of relays: a sandbox's current session, relays that wait for their claim, the states of a relay."""
