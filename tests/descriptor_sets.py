"""The descriptors of our .proto files and of the official SDK's, side by side.

Both define the symbols of `openshell.v1`, so one process can load only one of
them in protobuf's default pool. The official ones are therefore read by a
second process, which is this file run as a program.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

OFFICIAL_MODULE = "openshell._proto.openshell_pb2"


def file_set(root: FileDescriptor) -> FileDescriptorSet:
    """Return a file and all that it imports, imports first."""
    files = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        files.file.append(FileDescriptorProto.FromString(file.serialized_pb))

    add(root)
    return files


def official() -> FileDescriptorSet:
    """Return the descriptors of the installed `openshell` wheel."""
    dump = subprocess.run([sys.executable, __file__], capture_output=True, check=False)
    assert dump.returncode == 0, dump.stderr.decode()
    return FileDescriptorSet.FromString(dump.stdout)


if __name__ == "__main__":
    sys.stdout.buffer.write(file_set(import_module(OFFICIAL_MODULE).DESCRIPTOR).SerializeToString())
