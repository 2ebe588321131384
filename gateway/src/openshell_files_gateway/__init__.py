"""Reference gateway for OpenShell's streaming file transfer.

`files` implements the file methods, `relay` connects callers with supervisors,
`auth` authenticates callers, `server` runs the steps of every call. `simulation`
completes the simulation (sandboxes, commands), `dev` is the development stack.
A folder named `core` holds rules without gRPC, asyncio, files or a clock.
"""
