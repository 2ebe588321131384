"""Every test of sessions and relays is looked at for what it leaves."""

from leaks import grpc_engine, nothing_is_left_in_this_process

__all__ = ["grpc_engine", "nothing_is_left_in_this_process"]
