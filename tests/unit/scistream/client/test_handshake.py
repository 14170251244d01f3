"""Which certificate a server shows, and what is said of one that is not the right one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from scistream.auth.certificates import make_certificate, write_certificate
from scistream.client.aio import ControlClient, Facility, Untrusted
from scistream.client.handshake import ask_certificate, check_pem, check_server
from scistream.client.known_servers import fingerprint
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, DeadlineExceeded, PeerError
from support.control_servers import Running, Start

OTHER_PEM, _ = make_certificate(["127.0.0.1"])


@pytest.fixture
def silent() -> Iterator[Endpoint]:
    """Where somebody listens who never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Endpoint("127.0.0.1", listener.getsockname()[1])


async def start_elsewhere(start: Start, directory: Path) -> Running:
    """Start a control server at 127.0.0.1 whose certificate is for another host."""
    certificate, private_key = write_certificate(directory / "elsewhere", ["gateway.example", "10.0.0.1"])
    running = await start(certificate=certificate, private_key=private_key)
    running.certificate_pem = certificate.read_bytes()
    return running


async def test_a_server_shows_its_certificate(start: Start) -> None:
    server = await start()
    shown = await ask_certificate(server.server.address, timeout_s=10)
    assert fingerprint(shown) == fingerprint(server.certificate_pem)


async def test_a_server_that_shows_none_is_said(silent: Endpoint) -> None:
    with pytest.raises(DeadlineExceeded):
        await ask_certificate(silent, timeout_s=0.1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(PeerError):
        await ask_certificate(Endpoint("127.0.0.1", port), timeout_s=10)


async def test_a_server_with_the_trusted_certificate_is_right(start: Start) -> None:
    server = await start()
    await check_server(server.server.address, server.certificate_pem, timeout_s=10)


async def test_every_call_of_an_unknown_server_says_what_to_compare_and_that_it_is_not_trusted(
    start: Start,
) -> None:
    server = await start()
    where = server.server.address
    async with ControlClient(where) as client:
        with pytest.raises(Untrusted) as refused:
            await client.status()
    assert fingerprint(server.certificate_pem) in str(refused.value)
    assert f"s2uc trust {where}" in str(refused.value)


async def test_another_certificate_than_the_trusted_one_may_be_a_man_in_the_middle(start: Start) -> None:
    server = await start()
    async with ControlClient(server.server.address, server_certificate_pem=OTHER_PEM) as client:
        with pytest.raises(Untrusted, match="Somebody may be in between") as refused:
            await client.release("x")
    assert fingerprint(server.certificate_pem) in str(refused.value)
    assert fingerprint(OTHER_PEM) in str(refused.value)


async def test_a_certificate_for_other_names_is_said_with_these_names(start: Start, tmp_path: Path) -> None:
    server = await start_elsewhere(start, tmp_path)
    async with server.facility().connect() as client:
        with pytest.raises(Untrusted, match=r"not for 127\.0\.0\.1, but for gateway\.example, 10\.0\.0\.1"):
            await client.status()


async def test_a_certificate_that_has_run_out_is_told_from_another_one(start: Start, tmp_path: Path) -> None:
    pem, key = make_certificate(["127.0.0.1"], lifetime=timedelta(seconds=-60))
    (tmp_path / "old.crt").write_bytes(pem)
    (tmp_path / "old.key").touch(mode=0o600)
    (tmp_path / "old.key").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "old.crt", tmp_path / "old.key")

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as server:
        where = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(Untrusted, match=r"the certificate that is trusted.*expired"):
            await check_server(where, pem, timeout_s=10)


async def test_a_server_without_tls_is_said_with_how_to_call_it(start: Start) -> None:
    server = await start(tls=False)
    where = server.server.address
    async with ControlClient(where, server_certificate_pem=OTHER_PEM) as client:
        with pytest.raises(PeerError, match=f"plaintext://{where}"):
            await client.status()
    with pytest.raises(PeerError, match=f"plaintext://{where}"):
        await ask_certificate(where, timeout_s=10)


async def test_a_server_with_tls_that_is_called_without_is_said(start: Start) -> None:
    server = await start()
    async with ControlClient(server.server.address, tls=False) as client:
        with pytest.raises(PeerError, match="serves TLS after all"):
            await client.status()


BROKEN = OTHER_PEM.replace(b"MII", b"AAA", 1)


@pytest.mark.parametrize("pem", [b"", b"garbage", b"\xff\xfe", BROKEN])
def test_what_is_no_certificate_is_refused_before_anybody_is_called(pem: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.crt is no PEM certificate"):
        check_pem(pem, "x.crt")
    facility = Facility(endpoint=Endpoint("gateway.example", 5000), server_certificate_pem=pem)
    with pytest.raises(ConfigurationError, match=r"gateway\.example:5000 is no PEM certificate"):
        facility.connect()


def test_a_chain_of_certificates_with_comments_is_one() -> None:
    check_pem(b"# ours\n" + OTHER_PEM + b"# theirs\n" + OTHER_PEM, "chain.crt")


def test_a_certificate_cannot_be_checked_without_tls() -> None:
    facility = Facility(endpoint=Endpoint("gw", 5000), server_certificate_pem=OTHER_PEM, tls=False)
    with pytest.raises(ConfigurationError, match="without TLS"):
        facility.connect()
