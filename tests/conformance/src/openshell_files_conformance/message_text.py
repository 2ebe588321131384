"""A message of protobuf in one short line, for transcripts.

Protobuf's own text form escapes every byte of the content, which takes longer than sending it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

#: Of a value of bytes or text, and of the members of a list.
FEW_BYTES: Final = 24
FEW_MEMBERS: Final = 4


def message_text(message: Message) -> str:
    """Return the fields that are set, with the beginnings of long values."""
    parts = (_field(descriptor, value) for descriptor, value in message.ListFields())
    return " ".join(part for few in parts for part in few) or "{}"


def _field(descriptor: FieldDescriptor, value: Any) -> Iterator[str]:
    name = f"{descriptor.name}: "
    if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
        yield name + _shortened(dict(value))
    elif descriptor.is_repeated:
        members = [_value(descriptor, one) for one in value[:FEW_MEMBERS]]
        more = f", … ({len(value)} in all)" if len(value) > FEW_MEMBERS else ""
        yield f"{name}[{', '.join(members)}{more}]"
    else:
        yield name + _value(descriptor, value)


def _value(descriptor: FieldDescriptor, value: Any) -> str:
    if isinstance(value, Message):
        return f"{{{message_text(value)}}}" if value.ListFields() else "{}"
    if descriptor.enum_type is not None:
        known = descriptor.enum_type.values_by_number.get(value)
        return known.name if known else str(value)
    return _shortened(value)


def _shortened(value: Any) -> str:
    if isinstance(value, bytes) and len(value) > FEW_BYTES:
        return f"{value[:FEW_BYTES]!r}… ({len(value)} bytes)"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
