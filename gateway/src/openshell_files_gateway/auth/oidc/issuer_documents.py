"""Fetches an issuer's configuration and keys.

The issuer is trusted, the network is not: redirects and origins that are not
allowed are refused, sizes and time are limited.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Final, Protocol, cast

import httpx
from openshell_files_protocol.endpoints import is_loopback, may_use_proxy

from openshell_files_gateway.auth.issuer_keys import KeySet, KeySetError, read_key_set
from openshell_files_gateway.config.issuer_urls import (
    UnsafeUrlError,
    check_url,
    discovery_url,
    origin,
)
from openshell_files_gateway.config.tables import OidcSettings

MAX_DISCOVERY_BYTES: Final = 64 * 1024
MAX_JWKS_BYTES: Final = 1024 * 1024


class IssuerDocumentError(Exception):
    """A document of the issuer could not be fetched; the message names it and the cause."""


class KeySource(Protocol):
    """Source of an issuer's keys."""

    async def fetch(self) -> KeySet:
        """Fetch the current keys.

        Raises:
            IssuerDocumentError: they could not be fetched.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections to the issuer."""
        ...


class IssuerDocuments:
    """Fetches the keys that the issuer's configuration names (OpenID Connect Discovery 1.0).

    It reads the configuration every time, so an issuer may move its keys
    without a restart of the gateway.

    Args:
        settings: issuer, allowed origins and timeout.
    """

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None

    async def fetch(self) -> KeySet:
        """Fetch the issuer's keys.

        Raises:
            IssuerDocumentError: the issuer cannot be reached, takes longer
                than `fetch_timeout` in total, or sends an invalid document.
        """
        try:
            async with asyncio.timeout(self._settings.fetch_timeout):
                if self._client is None:
                    # In a thread, because it reads certificates from disk.
                    self._client = await asyncio.to_thread(self._new_client)
                return await self._fetch(self._client)
        except TimeoutError:
            raise IssuerDocumentError(
                f"the issuer took longer than {self._settings.fetch_timeout:g} s to answer"
            ) from None
        except (ssl.SSLError, OSError) as error:
            raise IssuerDocumentError(f"cannot use the configured certificates: {error}") from error

    async def aclose(self) -> None:
        """Close the connections to the issuer."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _fetch(self, client: httpx.AsyncClient) -> KeySet:
        discovery = await _get(
            client, httpx.URL(discovery_url(self._settings.issuer)), "configuration", MAX_DISCOVERY_BYTES
        )
        address = self._read_discovery(discovery)
        document = await _get(client, address, "JWK set", MAX_JWKS_BYTES)
        try:
            # In a thread, because parsing a megabyte of keys would block the loop for too long.
            return await asyncio.to_thread(read_key_set, document)
        except KeySetError as error:
            raise IssuerDocumentError(str(error)) from None

    def _new_client(self) -> httpx.AsyncClient:
        settings = self._settings
        verify: ssl.SSLContext | bool = True
        if settings.ca_file is not None:
            verify = ssl.create_default_context(cafile=str(settings.ca_file))
        return httpx.AsyncClient(
            verify=verify,
            mounts=_past_proxies(httpx.AsyncHTTPTransport(verify=verify), settings),
            follow_redirects=False,
            timeout=settings.fetch_timeout,
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=1),
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )

    def _read_discovery(self, document: bytes) -> httpx.URL:
        """Check the configuration and return the address of the keys."""
        try:
            value = cast("object", json.loads(document))
        except (ValueError, RecursionError):
            raise IssuerDocumentError("the issuer's configuration is not JSON") from None
        members = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        issuer, address = members.get("issuer"), members.get("jwks_uri")
        if not isinstance(issuer, str) or issuer.rstrip("/") != self._settings.issuer.rstrip("/"):
            raise IssuerDocumentError("the configuration at its URL is that of another issuer")
        if not isinstance(address, str):
            raise IssuerDocumentError("the issuer's configuration names no jwks_uri")
        insecure = self._settings.dangerously_allow_insecure_http
        try:
            parsed = check_url(address, allow_insecure_loopback=insecure)
        except UnsafeUrlError as error:
            raise IssuerDocumentError(f"the issuer's jwks_uri {error}") from None
        allowed = {
            origin(httpx.URL(url)) for url in (self._settings.issuer, *self._settings.jwks_allowed_origins)
        }
        if origin(parsed) not in allowed:
            raise IssuerDocumentError(
                f"the issuer's keys are at {origin(parsed)}, which is neither its own origin "
                "nor listed in oidc.jwks_allowed_origins"
            )
        return parsed


def _past_proxies(
    direct: httpx.AsyncHTTPTransport, settings: OidcSettings
) -> Mapping[str, httpx.AsyncHTTPTransport]:
    """Return the transports that bypass the environment's proxies: for plain http, and for this machine."""
    urls = map(httpx.URL, (settings.issuer, *settings.jwks_allowed_origins))
    here = {origin(url) for url in urls if not may_use_proxy(tls=True, local=is_loopback(url.host))}
    return dict.fromkeys(("http://", *here), direct)


async def _get(client: httpx.AsyncClient, url: httpx.URL, what: str, max_bytes: int) -> bytes:
    """Fetch a JSON document of bounded size."""
    try:
        async with client.stream("GET", url) as response:
            _check_head(response, what)
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > max_bytes:
                    raise IssuerDocumentError(f"the issuer's {what} is larger than {max_bytes} bytes")
            return bytes(body)
    except httpx.HTTPError as error:
        raise IssuerDocumentError(
            f"cannot fetch the issuer's {what}: {type(error).__name__}: {error}"
        ) from error


def _check_head(response: httpx.Response, what: str) -> None:
    if response.is_redirect:
        raise IssuerDocumentError(f"the issuer's {what} is a redirect, which is not followed")
    if response.status_code != 200:
        raise IssuerDocumentError(f"the issuer answered {response.status_code} for its {what}")
    # A small compressed answer could unpack to any size.
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise IssuerDocumentError(f"the issuer's {what} is compressed, which was not asked for")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise IssuerDocumentError(f"the issuer's {what} is not of a JSON content type")
