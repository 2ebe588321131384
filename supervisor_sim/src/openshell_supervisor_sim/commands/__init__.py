"""Commands that the gateway runs in the sandbox (clauses EXE-1 ff.).

`host` is a separate process that starts them. The rest runs in the supervisor: `exec_host` starts
that process and sends it requests, `connection` speaks the command protocol.
"""
