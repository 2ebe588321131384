"""Simulated OpenShell supervisor.

Towards the gateway it behaves like the real supervisor (sessions, relays). The design adds a file
agent in the sandbox. `agent` knows no transport; `session` and `relay` connect it to the gateway.
"""
