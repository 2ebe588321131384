"""The rules of file transfers, without files, streams, threads or a clock."""
