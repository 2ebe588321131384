"""What two sets of descriptors disagree about.

A subset of a service is compared with the whole: messages, enums and methods
that the subset leaves out are no difference, fields and enum values inside a
message or enum that both have are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from google.protobuf.message import Message


@dataclass(slots=True)
class Element:
    """A message, enum, service or extension, or a part of one.

    Attributes:
        facts: what can be compared, by name.
        parts: fields, enum values or methods, by name.
        partial: whether parts may be left out.
    """

    facts: dict[str, str]
    parts: dict[str, Element] = field(default_factory=dict[str, "Element"])
    partial: bool = False


def elements(files: FileDescriptorSet, packages: tuple[str, ...] = ("openshell.",)) -> dict[str, Element]:
    """Return what the files of these packages define, by full name."""
    found: dict[str, Element] = {}
    for file in files.file:
        if not f"{file.package}.".startswith(packages):
            continue
        for message in file.message_type:
            found.update(_messages(file.package, message, file.syntax))
        for enum in file.enum_type:
            found[f"{file.package}.{enum.name}"] = _enum(enum)
        for service in file.service:
            found[f"{file.package}.{service.name}"] = Element(
                {"kind": "service", "options": _text(service.options)},
                {method.name: _method(method) for method in service.method},
                partial=True,
            )
        for extension in file.extension:
            element = _field(extension, ())
            element.facts |= {"kind": "extension", "extends": extension.extendee}
            found[f"{file.package}.{extension.name}"] = element
    return found


def differences(subset: dict[str, Element], whole: dict[str, Element]) -> Iterator[str]:
    """Compare a subset with the whole.

    Yields:
        ``+ name`` for what only the subset has, ``- name`` for what it lacks
        inside something that both have, and ``! name: fact: ... here, ...
        there`` for what both have and describe differently.
    """
    for name, ours in subset.items():
        theirs = whole.get(name)
        if theirs is None:
            yield f"+ {name}"
            continue
        yield from _changed(name, ours, theirs)
        for part in ours.parts.keys() - theirs.parts.keys():
            yield f"+ {name}.{part}"
        if not ours.partial:
            for part in theirs.parts.keys() - ours.parts.keys():
                yield f"- {name}.{part}"
        for part in ours.parts.keys() & theirs.parts.keys():
            yield from _changed(f"{name}.{part}", ours.parts[part], theirs.parts[part])


def _changed(name: str, ours: Element, theirs: Element) -> Iterator[str]:
    for fact in sorted(ours.facts.keys() | theirs.facts.keys()):
        here, there = ours.facts.get(fact, "none"), theirs.facts.get(fact, "none")
        if here != there:
            yield f"! {name}: {fact}: {here} here, {there} there"


def _messages(scope: str, message: DescriptorProto, syntax: str) -> Iterator[tuple[str, Element]]:
    name = f"{scope}.{message.name}"
    oneofs = tuple(oneof.name for oneof in message.oneof_decl)
    facts = {
        "kind": "message",
        "syntax": syntax,
        "options": _text(message.options),
        "reserved numbers": _ranges((one.start, one.end - 1) for one in message.reserved_range),
        "reserved names": _names(message.reserved_name),
        "extension ranges": _ranges((one.start, one.end - 1) for one in message.extension_range),
    }
    yield name, Element(facts, {one.name: _field(one, oneofs) for one in message.field})
    for nested in message.nested_type:
        yield from _messages(name, nested, syntax)
    for enum in message.enum_type:
        yield f"{name}.{enum.name}", _enum(enum)


def _field(one: FieldDescriptorProto, oneofs: tuple[str, ...]) -> Element:
    return Element(
        {
            "number": str(one.number),
            "type": FieldDescriptorProto.Type.Name(one.type),
            "type name": one.type_name or "none",
            "label": FieldDescriptorProto.Label.Name(one.label),
            "oneof": oneofs[one.oneof_index] if one.HasField("oneof_index") else "none",
            "explicit presence": str(one.proto3_optional),
            "options": _text(one.options),
        }
    )


def _enum(enum: EnumDescriptorProto) -> Element:
    facts = {
        "kind": "enum",
        "options": _text(enum.options),
        "reserved numbers": _ranges((one.start, one.end) for one in enum.reserved_range),
        "reserved names": _names(enum.reserved_name),
    }
    values = {
        value.name: Element({"number": str(value.number), "options": _text(value.options)})
        for value in enum.value
    }
    return Element(facts, values)


def _method(method: MethodDescriptorProto) -> Element:
    return Element(
        {
            "request": method.input_type,
            "response": method.output_type,
            "request stream": str(method.client_streaming),
            "response stream": str(method.server_streaming),
            "options": _text(method.options),
        }
    )


def _text(options: Message) -> str:
    """Return options as text, those that this process does not know included."""
    return text_format.MessageToString(options, as_one_line=True, print_unknown_fields=True) or "none"


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    numbers = sorted({f"{first:010}-{last:010}" for first, last in ranges})
    return ", ".join(numbers) or "none"


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
