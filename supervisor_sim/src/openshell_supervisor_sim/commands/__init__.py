"""Commands in the sandbox, as the gateway asks for them (clauses EXE-1 ff.).

`host` is a process of its own that starts them; the rest runs in the
supervisor: `exec_host` starts and asks that process, `session` speaks the
command protocol.
"""
