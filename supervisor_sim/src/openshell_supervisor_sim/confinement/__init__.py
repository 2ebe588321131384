"""Confinement: takes rights away from the supervisor and from the commands that it runs.

It imports only the standard library, so that the exec host can use it, too.
"""
