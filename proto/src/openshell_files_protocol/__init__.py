"""What both ends of a file transfer have to agree on.

* `pb`: the messages, generated from the .proto files.
* `framing`: length-delimited frames and relay frames.
* `digests`: what content is compared by.
* `chunks`: the one message that is on every byte's way, without a copy.
* `reasons`, `errors`: the error table, and the exception that carries a row.
* `methods`: the RPCs by path.
* `durations`: seconds and `google.protobuf.Duration`.
* `limits`: sizes, times and the channel settings that go with them.

Nothing here knows gRPC, asyncio, files or a clock.
"""
