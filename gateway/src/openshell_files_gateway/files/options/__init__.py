"""Options, apart from the core: lanes (LAN-1 ff.), `waiting` (WAI-1 ff.), directories (DIR-1 ff.), trees (TRE-1 ff., ARC-1).

To take one out, delete its module here and under `core/`, the lines that import it in `files/methods.py`,
`files/capabilities.py` and `gateway.py`, its settings (`limits.max_upload_lanes`, `limits.max_pause`), and its messages in
file_options.proto. Without lanes, `files/upload_input.py` still has `SingleStream`. Directories have methods in
openshell.proto, messages in directories.proto, and no settings; so do trees, in trees.proto.
"""
