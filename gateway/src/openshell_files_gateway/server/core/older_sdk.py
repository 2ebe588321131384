"""Recognizes requests of the official SDK before version 0.1, whose fields have other numbers or types."""

from __future__ import annotations

import re
from typing import Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_protocol.varint import WIRE_LEN, WIRE_VARINT

_SELECTOR: Final = datamodel_pb2.WorkspaceSelector.DESCRIPTOR.full_name

#: A workspace's name, which older SDKs send in the field of a WorkspaceSelector.
#: No encoded selector matches, since its first byte is a control character.
_NAME: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]*")

#: Other fields that were removed or changed their type: message → number → former wire type and name.
_FORMER: Final[dict[str, dict[int, tuple[int, str]]]] = {
    "CreateSandboxRequest": {5: (WIRE_LEN, "workspace")},
    "ListSandboxesRequest": {2: (WIRE_VARINT, "offset"), 5: (WIRE_VARINT, "all_workspaces")},
    "ExecSandboxRequest": {5: (WIRE_VARINT, "timeout_seconds")},
}


def refusal_of_older_sdk(request: Message, data: bytes) -> TransferError | None:
    """Return the error for a request of an SDK before 0.1; None if the request shows no sign of that.

    Args:
        request: an empty message of the expected type.
        data: the request as received.
    """
    descriptor = request.DESCRIPTOR
    former = _FORMER.get(descriptor.name, {})
    selectors = {
        field.number
        for field in descriptor.fields
        if field.message_type is not None and field.message_type.full_name == _SELECTOR
    }
    if not former and not selectors:
        return None
    for number, wire_type, value in _fields(data):
        if former.get(number, (None, ""))[0] == wire_type:
            return _refusal(former[number][1])
        if number in selectors and isinstance(value, bytes) and _NAME.fullmatch(value):
            return _refusal("workspace")
    return None


def _fields(data: bytes) -> list[tuple[int, int, object]]:
    bare = Empty()
    try:
        bare.ParseFromString(data)
    except DecodeError:
        return []
    fields = UnknownFieldSet(bare)
    return [
        (field.field_number, field.wire_type, field.data)
        for field in (fields[index] for index in range(len(fields)))
    ]


def _refusal(field: str) -> TransferError:
    return invalid(field, "request of an SDK before 0.1, which this gateway does not serve; use 0.1 or later")
