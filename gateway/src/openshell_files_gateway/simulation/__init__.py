"""Completes the simulation of OpenShell: creates sandboxes, and runs commands in them."""
