"""gRPC: translates calls, and nothing else."""
