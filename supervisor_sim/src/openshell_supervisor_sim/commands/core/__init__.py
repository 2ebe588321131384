"""Rules of commands; no grpc, asyncio, os or clock."""
