"""The token is renewed in time, written where it can be, and never ends a session."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import stat
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from conditions import until
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_supervisor_sim.relay.targets import RelayTargets
from openshell_supervisor_sim.session.backoff import Backoff
from openshell_supervisor_sim.session.token_file import TokenFile, TokenFileError
from openshell_supervisor_sim.session.token_renewal import TokenLife, TokenRenewal, token_life
from scripted_gateway import ScriptedGateway, scripted_gateway
from supervisor_scene import SandboxPlaces, new_session, run_options, supervisor_process

NOW = 1_000_000.0


def jwt(**claims: Any) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'EdDSA'})}.{part(claims)}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("token", "life"),
    [
        (jwt(iat=NOW - 100, exp=NOW + 100), TokenLife(NOW - 100, NOW + 100)),
        (jwt(exp=NOW + 100), TokenLife(NOW, NOW + 100)),
        (jwt(iat=NOW + 50, exp=NOW + 100), TokenLife(NOW, NOW + 100)),
        (jwt(exp=0), None),
        (jwt(sub="x"), None),
        (jwt(exp="never"), None),
        ("opaque", None),
        ("a.!!!.c", None),
        ("a.bnVsbA.c", None),
    ],
)
def test_the_life_of_a_token(token: str, life: TokenLife | None) -> None:
    """Read from the payload without verifying it; 0 or nothing means for ever."""
    assert token_life(token, NOW) == life


def test_when_it_is_renewed() -> None:
    """At 80 % of its life, or up to a tenth of that earlier."""
    life = TokenLife(NOW, NOW + 1000)
    assert life.renewal(0) == NOW + 800
    assert life.renewal(1) == NOW + 720


@asynccontextmanager
async def renewing(
    gateway: ScriptedGateway, tokens: TokenFile, clock: list[float]
) -> AsyncGenerator[asyncio.Task[None]]:
    async with grpc.aio.insecure_channel(
        gateway.endpoint, [("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        renewal = TokenRenewal(
            channel=channel, tokens=tokens, backoff=Backoff(initial=0.01, maximum=0.02),
            clock=lambda: clock[0], look_seconds=0.02,
        )  # fmt: skip
        task = asyncio.create_task(renewal.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_token_is_renewed_in_time(places: SandboxPlaces) -> None:
    """The new one is in the file, for nobody else to read, and later calls use it."""
    old, new = jwt(iat=NOW, exp=NOW + 1000, n=1), jwt(iat=NOW + 800, exp=NOW + 1800, n=2)
    places.token.write_text(old, "ascii")
    clock, asked = [NOW], list[str]()

    async def refresh(authorization: str) -> openshell_pb2.RefreshSandboxTokenResponse:
        asked.append(authorization)
        return openshell_pb2.RefreshSandboxTokenResponse(token=new)

    async with scripted_gateway() as gateway:
        gateway.refresh = refresh
        tokens = TokenFile(places.token)
        async with renewing(gateway, tokens, clock):
            await asyncio.sleep(0.1)
            assert asked == []
            clock[0] = NOW + 801
            await until(lambda: tokens.read() == new, "the token is renewed")
            assert asked == [f"Bearer {old}"]
            assert await tokens.metadata() == (("authorization", f"Bearer {new}"),)
    assert places.token.read_text("ascii").strip() == new
    assert stat.S_IMODE(places.token.stat().st_mode) == 0o600
    assert sorted(os.listdir(places.home)) == ["root", "state", "token"]


async def test_failures_are_tried_again(places: SandboxPlaces) -> None:
    """Unavailable, refused, an answer without a token; the old one stays meanwhile."""
    old, new = jwt(iat=NOW - 900, exp=NOW + 100), jwt(iat=NOW, exp=NOW + 1000)
    places.token.write_text(old, "ascii")
    answers = ["", "two tokens", "line\nbreak"]
    count = 0

    async def refresh(_: str) -> openshell_pb2.RefreshSandboxTokenResponse:
        nonlocal count
        count += 1
        if answers:
            return openshell_pb2.RefreshSandboxTokenResponse(token=answers.pop(0))
        if count == 4:
            raise RuntimeError("a gateway with a bug")
        return openshell_pb2.RefreshSandboxTokenResponse(token=new)

    async with scripted_gateway() as gateway:
        gateway.refresh = refresh
        tokens = TokenFile(places.token)
        async with renewing(gateway, tokens, [NOW]) as task:
            await until(lambda: tokens.read() == new, "the token is renewed")
            assert not task.done()
    assert count == 5


async def test_a_gateway_that_does_not_renew(places: SandboxPlaces) -> None:
    places.token.write_text(jwt(iat=NOW - 900, exp=NOW + 100), "ascii")
    async with scripted_gateway() as gateway, renewing(gateway, TokenFile(places.token), [NOW]) as task:
        await asyncio.sleep(0.1)
        assert not task.done()


async def test_no_session_ends_by_it(places: SandboxPlaces) -> None:
    """Also if the token file is gone: what runs goes on."""
    places.token.write_text(jwt(iat=NOW - 900, exp=NOW + 100), "ascii")
    async with (
        scripted_gateway() as gateway,
        grpc.aio.insecure_channel(gateway.endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        session = new_session(gateway, channel, places.token, RelayTargets())
        running = asyncio.create_task(session.run())
        await gateway.accepted_session()
        await session.connected.wait()
        async with renewing(gateway, TokenFile(places.token), [NOW]) as task:
            await asyncio.to_thread(places.token.unlink)
            await asyncio.sleep(0.1)
            assert not task.done()
            assert session.connected.is_set()
            assert gateway.sessions.empty()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_tokens_whose_life_is_over_at_once(places: SandboxPlaces) -> None:
    """Clocks that differ: the gateway is not asked without a pause."""
    places.token.write_text(jwt(iat=NOW - 900, exp=NOW + 100), "ascii")
    count = 0

    async def refresh(_: str) -> openshell_pb2.RefreshSandboxTokenResponse:
        nonlocal count
        count += 1
        return openshell_pb2.RefreshSandboxTokenResponse(token=jwt(iat=NOW - 10, exp=NOW - 5, n=count))

    async with scripted_gateway() as gateway:
        gateway.refresh = refresh
        async with renewing(gateway, TokenFile(places.token), [NOW]):
            started = time.monotonic()
            await until(lambda: count >= 4, "it is tried again")
            assert time.monotonic() - started >= 3 * 0.005


def test_a_directory_that_cannot_be_written(places: SandboxPlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new token is kept in memory, until somebody else puts another one into the file."""
    tokens = TokenFile(places.token)
    places.token.write_text("one", "ascii")
    assert tokens.read() == "one"

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refused)
        tokens.replace("one", "two")
        assert tokens.read() == "two"
        tokens.replace("two", "three")
        assert tokens.read() == "three"
    assert sorted(os.listdir(places.home)) == ["root", "state", "token"]
    assert places.token.read_text("ascii") == "one"
    places.token.write_text("four", "ascii")
    assert [tokens.read(), tokens.read()] == ["four", "four"]


def test_a_file_that_may_not_be_read_any_more(places: SandboxPlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the change of user: the last token is used. One that never was read is an error."""
    tokens, never = TokenFile(places.token), TokenFile(places.token)
    assert tokens.read() == "secret-token"

    def refused(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    assert tokens.read() == "secret-token"
    with pytest.raises(TokenFileError, match="--token-file"):
        never.read()


@pytest.mark.parametrize("kind", ["missing", "a directory", "not ASCII"])
def test_a_file_that_cannot_be_used_is_told_in_words(places: SandboxPlaces, kind: str) -> None:
    path = places.home / "other"
    if kind == "a directory":
        path.mkdir()
    elif kind == "not ASCII":
        path.write_text("é", "utf-8")
    with pytest.raises(TokenFileError) as caught:
        TokenFile(path).read()
    assert str(caught.value).startswith(f"--token-file {path}: ")
    assert "Errno" not in str(caught.value)
    assert "codec" not in str(caught.value)


def test_a_link_is_followed(places: SandboxPlaces) -> None:
    """The file behind it is replaced, not the link."""
    link = places.home / "link"
    link.symlink_to("token")
    TokenFile(link).replace("secret-token", "renewed")
    assert link.is_symlink()
    assert places.token.read_text("ascii") == "renewed\n"


async def test_the_process_renews(places: SandboxPlaces, tmp_path: Path) -> None:
    """Also confined: the token's directory can be written."""
    now = time.time()
    places.token.write_text(jwt(iat=now - 900, exp=now + 100), "ascii")
    new = jwt(iat=now, exp=now + 10_000)

    async def refresh(_: str) -> openshell_pb2.RefreshSandboxTokenResponse:
        return openshell_pb2.RefreshSandboxTokenResponse(token=new)

    async with scripted_gateway() as gateway:
        gateway.refresh = refresh
        async with supervisor_process(*run_options(places, gateway), log=tmp_path / "log", gateway=gateway):
            await until(lambda: places.token.read_text("ascii").strip() == new, "the file is replaced")
    assert new not in (tmp_path / "log").read_text("utf-8")
