"""The exec host: a small process that starts commands.

It imports only the standard library. It is small, so that it starts a command fast. It has one
thread, so that it may leave its namespaces. It starts before the supervisor is confined, so that it
can mount its view of the file system.
"""
