"""Hypothesis strategies for protobuf's wire format, legal and not quite.

They write what a fuzzer, another implementation or a later version may send:
fields shuffled, repeated or unknown, padded varints, groups, and cuts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from hypothesis import strategies as st
from openshell_files_protocol.varint import encode_varint

MAX_UINT64: Final = 2**64 - 1

#: Unsigned integers with the edges of varint encoding among them.
uint64s: Final = st.one_of(
    st.sampled_from([0, 1, 127, 128, 2**14 - 1, 2**14, 2**32, 2**63, MAX_UINT64]),
    st.integers(0, MAX_UINT64),
)

#: Numbers in use in content and relay messages, and some that are not.
field_numbers: Final = st.sampled_from([1, 2, 3, 4, 5, 9, 10, 11, 15, 16, 1000, 2**29 - 1])


def padded_varint(value: int, length: int) -> bytes:
    """Encode `value` in at least `length` bytes: legal to ten, and not canonical."""
    out = bytearray(encode_varint(value))
    while len(out) < length:
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


@st.composite
def varints(draw: st.DrawFn, values: st.SearchStrategy[int] = uint64s) -> bytes:
    """Varints; one in a few is longer than it needs to be, or than is legal."""
    return padded_varint(draw(values), draw(st.sampled_from([0, 0, 0, 0, 2, 5, 6, 10, 11])))


@st.composite
def length_delimited(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    """A length, usually the right one, and a body."""
    body = draw(bodies)
    length = max(0, len(body) + draw(st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1, 2**31, 2**32])))
    return padded_varint(length, draw(st.sampled_from([0, 0, 0, 0, 2, 5, 6, 10, 11]))) + body


@st.composite
def fields(draw: st.DrawFn, numbers: st.SearchStrategy[int], bodies: st.SearchStrategy[bytes]) -> bytes:
    """One field of any wire type, the reserved ones too."""
    number = draw(numbers)
    wire_type = draw(st.sampled_from([0, 0, 2, 2, 2, 2, 5, 1, 3, 4, 6, 7]))
    key = padded_varint(number << 3 | wire_type, draw(st.sampled_from([0, 0, 0, 0, 0, 0, 2, 5])))
    match wire_type:
        case 0:
            return key + draw(varints())
        case 1:
            return key + draw(st.binary(min_size=8, max_size=8))
        case 2:
            return key + draw(length_delimited(bodies))
        case 3:
            return key + draw(bodies) + encode_varint(number << 3 | 4)
        case 5:
            return key + draw(st.binary(min_size=4, max_size=4))
        case _:
            return key


def messages(
    numbers: st.SearchStrategy[int] = field_numbers, bodies: st.SearchStrategy[bytes] | None = None
) -> st.SearchStrategy[bytes]:
    """Sequences of fields whose bodies are sequences of fields again."""
    leaf = st.binary(max_size=20) if bodies is None else bodies
    inner = st.one_of(leaf, st.lists(fields(field_numbers, leaf), max_size=4).map(b"".join))
    return st.lists(fields(numbers, inner), max_size=3).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn, sound: st.SearchStrategy[bytes]) -> bytes:
    """A sound encoding after an accident: cut, doubled, or with one byte changed."""
    message = draw(sound)
    match draw(st.sampled_from(["cut", "doubled", "changed", "extended"])):
        case "cut":
            return message[: draw(st.integers(0, len(message)))]
        case "doubled":
            return message + message
        case "changed" if message:
            at = draw(st.integers(0, len(message) - 1))
            return message[:at] + bytes((draw(st.integers(0, 255)),)) + message[at + 1 :]
        case _:
            return message + draw(st.binary(min_size=1, max_size=3))


@st.composite
def cuts(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """The stream in pieces of any size, empty ones among them."""
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *places, len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]
