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

#: What stood where a WorkspaceSelector stands now: the workspace's name. No
#: selector looks like one, since it begins with a control character.
_NAME: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]*")

#: Other fields that have gone or changed their type: message → number → wire type and name then.
_THEN: Final[dict[str, dict[int, tuple[int, str]]]] = {
    "CreateSandboxRequest": {5: (WIRE_LEN, "workspace")},
    "ListSandboxesRequest": {2: (WIRE_VARINT, "offset"), 5: (WIRE_VARINT, "all_workspaces")},
    "ExecSandboxRequest": {5: (WIRE_VARINT, "timeout_seconds")},
}


def refusal_of_older_sdk(request: Message, data: bytes) -> TransferError | None:
    """Return the error for a request of an SDK before 0.1; None if it is none that can be told.

    Args:
        request: an empty one, of the type that it should be.
        data: as it came.
    """
    descriptor = request.DESCRIPTOR
    then = _THEN.get(descriptor.name, {})
    selectors = {
        field.number
        for field in descriptor.fields
        if field.message_type is not None and field.message_type.full_name == _SELECTOR
    }
    if not then and not selectors:
        return None
    for number, wire_type, value in _fields(data):
        if then.get(number, (None, ""))[0] == wire_type:
            return _refusal(then[number][1])
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
