"""The exec host: a small process that starts commands.

It imports the standard library only. It is small so that starting a command
is fast, has one thread so that it may leave its namespaces, and is started
before the supervisor is confined so that it can make itself a view of the
file system.
"""
