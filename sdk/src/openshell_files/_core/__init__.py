"""Rules of the client, without gRPC, asyncio, files or a clock."""
