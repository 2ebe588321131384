"""Checks the form and the signature of a JSON Web Token.

The form is checked first, then the signature, and only then are the claims
read (RFC 8725 §2). Keys inside a token (`jwk`, `jku`, `x5c`, `x5u`) are
ignored, since a token must not choose the key that verifies it.

Error messages name the failed check and repeat no part of the token.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import jwt
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.issuer_keys import ALGORITHMS, VerificationKey

#: Largest token. Issuers' tokens have 1 to 4 KiB; HTTP/2 servers allow 8 to 16 KiB of headers.
MAX_TOKEN_BYTES: Final = 16 * 1024

#: Types of access tokens (RFC 7519 §5.1, RFC 9068 §2.1). Tokens of other types,
#: such as upstream's `openshell-ext+jwt`, serve other purposes.
_ACCEPTED_TYPES: Final = frozenset({"jwt", "at+jwt"})

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")

_SIGNATURES: Final = jwt.PyJWS(algorithms=sorted(ALGORITHMS))


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """The header of a token whose signature is not verified yet.

    Attributes:
        algorithm: `alg`.
        key_id: `kid`, an arbitrary string.
    """

    algorithm: str
    key_id: str


def read_header(token: str) -> TokenHeader:
    """Check a token's form and read its header.

    Raises:
        TransferError: TOKEN_MALFORMED if it is not a signed access token in
            compact form; TOKEN_BAD_ALGORITHM for an algorithm that is never
            accepted, such as `none` or `HS256`.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise _malformed(f"the token is larger than {MAX_TOKEN_BYTES} bytes")
    if not _COMPACT.fullmatch(token):
        raise _malformed("the token is not a JWT of three base64url parts")
    header = _json_object(_decode(token.partition(".")[0]), "header")
    if "crit" in header or "b64" in header:
        raise _malformed("the token's header demands an extension that is not supported")
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str):
        raise _malformed("the token's header has no algorithm")
    if algorithm not in ALGORITHMS:
        raise TransferError(
            Reason.TOKEN_BAD_ALGORITHM,
            f"the token's algorithm is none of those accepted: {', '.join(sorted(ALGORITHMS))}",
        )
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _ACCEPTED_TYPES:
        raise _malformed("the token's type is not that of an access token")
    if not isinstance(key_id, str):
        raise _malformed("the token's header has no key id (kid) that is a string")
    return TokenHeader(algorithm, key_id)


def verify_signature(token: str, key: VerificationKey) -> Mapping[str, object]:
    """Check a token's signature and return its claims.

    Args:
        token: a token that `read_header` accepted.
        key: the key that the header names. The token must use the key's own
            algorithm (RFC 8725 §3.1).

    Raises:
        TransferError: TOKEN_BAD_ALGORITHM, TOKEN_BAD_SIGNATURE, or
            TOKEN_MALFORMED if the payload is not a JSON object.
    """
    try:
        signed = _SIGNATURES.decode_complete(token, key=key.public, algorithms=[key.algorithm])
    except jwt.InvalidAlgorithmError:
        raise TransferError(
            Reason.TOKEN_BAD_ALGORITHM, f"the token is not signed with {key.algorithm}, its key's algorithm"
        ) from None
    except jwt.InvalidSignatureError:
        raise TransferError(Reason.TOKEN_BAD_SIGNATURE, "the token's signature does not match") from None
    except jwt.PyJWTError:
        raise _malformed("the token's parts are not base64url") from None
    return _json_object(cast("bytes", signed["payload"]), "payload")


def _decode(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        raise _malformed("the token's parts are not base64url") from None


def _json_object(data: bytes, part: str) -> dict[str, object]:
    """Read a JSON object in which no name appears twice (RFC 7515 §4, RFC 7519 §4)."""
    try:
        value = cast(
            "object", json.loads(data, object_pairs_hook=_unique_names, parse_constant=_no_such_number)
        )
    except (ValueError, RecursionError):
        raise _malformed(f"the token's {part} is not a JSON object with unique names") from None
    if not isinstance(value, dict):
        raise _malformed(f"the token's {part} is not a JSON object")
    return cast("dict[str, object]", value)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name appears twice")
    return value


def _no_such_number(_name: str) -> NoReturn:
    raise ValueError("NaN and infinity are not JSON")


def _malformed(message: str) -> TransferError:
    return TransferError(Reason.TOKEN_MALFORMED, message)
