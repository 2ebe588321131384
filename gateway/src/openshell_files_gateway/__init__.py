"""Reference gateway for OpenShell's streaming file transfer.

Layers, from the inside out: `core` holds the rules and knows neither gRPC nor
asyncio nor a clock; `auth` decides who is asking; `relay` connects callers
with supervisors; `rpc` translates gRPC calls; `dev` is the development stack.
"""
