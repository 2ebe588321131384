"""The protocol that both ends of a file transfer share.

* `pb`: the messages, generated from the .proto files.
* `framing`: length-delimited frames and relay frames.
* `chunks`: encodes and decodes content messages without copies.
* `digests`: the digest algorithms.
* `reasons`, `errors`: the error table, and the exception for a row of it.
* `methods`: the paths of the RPCs.
* `endpoints`: parses the address of a gateway.
* `durations`: seconds and `google.protobuf.Duration`.
* `limits`: sizes, times and channel settings.

The package uses no gRPC, asyncio, files or clock.
"""
