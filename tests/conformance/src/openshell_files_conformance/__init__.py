"""Judges any gateway, supervisor or SDK of OpenShell's streaming file transfer.

The package imports nothing of the reference implementation: its messages, clients, servers and identity provider are its own.
"""
