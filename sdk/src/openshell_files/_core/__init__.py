"""What a client has to decide, without gRPC, asyncio, files or a clock."""
