"""Rules of relays: who speaks for a sandbox, which relays wait, the states of one."""
