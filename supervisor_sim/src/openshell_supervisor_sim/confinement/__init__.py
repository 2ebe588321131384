"""What takes rights away: from the supervisor, and from the commands it runs.

Only the standard library, so that the exec host, which starts before anything
else, can use it too.
"""
