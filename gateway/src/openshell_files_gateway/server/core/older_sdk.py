"""Recognizes requests of the official SDK before version 0.1, whose fields have other numbers or types."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2

_SELECTOR: Final = datamodel_pb2.WorkspaceSelector.DESCRIPTOR.full_name

#: A workspace's name, which older SDKs send in the field of a WorkspaceSelector.
#: No encoded selector matches, since its first byte is a control character.
_NAME: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]*")

_BYTES: Final = FieldDescriptorProto.TYPE_BYTES
_NUMBER: Final = FieldDescriptorProto.TYPE_UINT64

#: Other fields that were removed or changed their type: message → number → former type and name.
_FORMER: Final[dict[str, dict[int, tuple[FieldDescriptorProto.Type.ValueType, str]]]] = {
    "CreateSandboxRequest": {5: (_BYTES, "workspace")},
    "ListSandboxesRequest": {2: (_NUMBER, "offset"), 5: (_NUMBER, "all_workspaces")},
    "ExecSandboxRequest": {5: (_NUMBER, "timeout_seconds")},
}


def refusal_of_older_sdk(request: Message, data: bytes) -> TransferError | None:
    """Return the error for a request of an SDK before 0.1; None if the request shows no sign of that.

    Args:
        request: an empty message of the expected type.
        data: the request as received.
    """
    descriptor = request.DESCRIPTOR
    selectors = {
        field.number
        for field in descriptor.fields
        if field.message_type is not None and field.message_type.full_name == _SELECTOR
    }
    for number, (kind, name) in _FORMER.get(descriptor.name, {}).items():
        if _value(data, number, kind) is not None:
            return _refusal(name)
    for number in selectors:
        value = _value(data, number, _BYTES)
        if isinstance(value, bytes) and _NAME.fullmatch(value):
            return _refusal("workspace")
    return None


def _value(data: bytes, number: int, kind: FieldDescriptorProto.Type.ValueType) -> object:
    """Return the value of the field of that number and type; None if the message has none, or is malformed.

    The protobuf parser searches. A loop over unknown fields in Python would
    block the event loop: a request can have a million of them.
    """
    probe = _probe(number, kind)()
    try:
        probe.ParseFromString(data)
    except DecodeError:
        return None
    return getattr(probe, "value") if probe.HasField("value") else None  # noqa: B009 - of a message made here


@cache
def _probe(number: int, kind: FieldDescriptorProto.Type.ValueType) -> type[Message]:
    """Return a message type with that field alone."""
    file = FileDescriptorProto(name="probe.proto", syntax="proto2")
    file.message_type.add(name="Probe").field.add(
        name="value", number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("Probe"))


def _refusal(field: str) -> TransferError:
    return invalid(field, "request of an SDK before 0.1, which this gateway does not serve; use 0.1 or later")
