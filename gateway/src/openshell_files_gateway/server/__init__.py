"""The steps of every call: id, authentication, authorization, errors, log; the gRPC server itself."""
