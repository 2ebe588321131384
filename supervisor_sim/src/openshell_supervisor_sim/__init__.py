"""Simulated OpenShell supervisor.

It does what the real one does towards the gateway (sessions, relays) and what
the design adds to it: a file agent in the sandbox. `agent` is free of any
transport; `session` and `relay` are the gateway's side of it.
"""
