"""Every test of sessions and relays is looked at for what it leaves."""

from leaks import grpc_engine as grpc_engine
from leaks import nothing_is_left_in_this_process as nothing_is_left_in_this_process
