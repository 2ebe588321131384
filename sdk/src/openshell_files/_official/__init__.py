"""The public clients, and their variants on the connection of the official SDK's `SandboxClient`.

The official SDK is blocking only, so the two flavours use its channel in
different ways, and each has a module that is written by hand. They do not
import the official SDK, which need not be installed, nor each other.
"""
