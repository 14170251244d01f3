"""Our client against control servers that behave as the reference implementation does."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from scistream.auth.shared_key import read_token_file
from scistream.client import CallUnknown, Endpoint, Facility, Role, open_session
from scistream.client.aio.control import UnnamedFault
from scistream.errors import DeadlineExceeded, PeerError
from support.gateways import Application, Gateways, ask, run_program
from support.reference_server import ReferenceServer, reference_servers

Applications = Callable[[str], Application]


def facility(gateways: Gateways, server: ReferenceServer) -> Facility:
    return Facility(
        endpoint=Endpoint.parse(server.address), server_certificate_pem=gateways.certificate.read_bytes()
    )


def request(gateways: Gateways, producer: str, consumer: str, app: Application, *more: str) -> list[str]:
    return [
        "request",
        producer,
        consumer,
        f"--target={app.address}",
        f"--producer-certificate={gateways.certificate}",
        f"--consumer-certificate={gateways.certificate}",
        "--json",
        *more,
    ]


def test_a_session_through_two_reference_servers_carries_bytes_in_the_clear(
    gateways: Gateways, application: Applications
) -> None:
    app = application("detector")
    with reference_servers(gateways.certificate, gateways.private_key, 2) as (producer, consumer):
        opened = run_program(
            "s2uc", *request(gateways, producer.address, consumer.address, app, "--plain", "--num-conn=2")
        )
        assert opened.code == 0, opened.err
        assert opened.json["encrypted"] is False
        message = os.urandom(1_000_000)
        for listener in opened.json["listeners"]:
            assert ask(listener, message) == b"detector:" + message
        assert len(opened.json["listeners"]) == 2
        (entry,) = producer.entries.values()
        assert consumer.entries[opened.json["uid"]].remote_listeners == entry.names()
        released = run_program(
            "s2uc",
            "release",
            opened.json["uid"],
            f"--s2cs={producer.address}",
            f"--s2cs={consumer.address}",
            f"--certificate={gateways.certificate}",
        )
        assert released.code == 0, released.err
        assert (producer.entries, consumer.entries) == ({}, {})


def test_hello_is_said_again_until_a_reference_server_has_registered_the_request(
    gateways: Gateways, application: Applications
) -> None:
    app = application("detector")
    with reference_servers(gateways.certificate, gateways.private_key, 2, early_hellos=3) as servers:
        ours, theirs = (facility(gateways, server) for server in servers)
        with open_session(ours, theirs, targets=[Endpoint.parse(app.address)], encrypted=False) as session:
            assert ask(str(session.listeners[0]), b"hi") == b"detector:hi"
        for server in servers:
            assert server.refused_hellos == 3
            assert server.calls == ["req", "hello", "hello", "hello", "hello", "update", "release"] or (
                server.calls[0] == "hello"  # it may even overtake REQ
            )


def test_a_reference_server_that_never_registers_the_request_costs_the_timeout(
    gateways: Gateways, application: Applications
) -> None:
    app = application("detector")
    with (
        ReferenceServer(gateways.certificate, gateways.private_key, early_hellos=1_000) as stuck,
        ReferenceServer(gateways.certificate, gateways.private_key) as other,
    ):
        with pytest.raises(DeadlineExceeded, match="2 s"):
            open_session(
                facility(gateways, stuck),
                facility(gateways, other),
                targets=[Endpoint.parse(app.address)],
                encrypted=False,
                timeout_s=2,
            )
        assert other.entries == {}
        stuck._early.release(1_000)  # its REQ goes on, and its thread ends


def test_encryption_is_insisted_on_unless_plain_is_asked_for(
    gateways: Gateways, application: Applications
) -> None:
    app = application("detector")
    with reference_servers(gateways.certificate, gateways.private_key, 2) as (producer, consumer):
        refused = run_program("s2uc", *request(gateways, producer.address, consumer.address, app))
        assert refused.code == 4
        assert "--plain" in refused.err
        assert (producer.entries, consumer.entries) == ({}, {})
        assert app.received == []


def test_what_a_reference_server_cannot_do_is_said_clearly(gateways: Gateways) -> None:
    with ReferenceServer(gateways.certificate, gateways.private_key) as server:
        with facility(gateways, server).connect() as client:
            with pytest.raises(CallUnknown, match="'status'"):
                client.status("x")
            with pytest.raises(CallUnknown, match="'renew'"):
                client.renew("x")
            with pytest.raises(UnnamedFault, match="entry not found"):
                client.update("x", Role.PRODUCER)
            assert issubclass(CallUnknown, PeerError)
        shown = run_program(
            "s2uc", "check_status", "x", f"--s2cs={server.address}", f"--server_cert={gateways.certificate}"
        )
        assert shown.code == 4
        assert "does not know the call 'status'" in shown.err


def test_a_reference_producer_and_our_consumer_side_stream_in_the_clear_where_that_is_allowed(
    gateways: Gateways, application: Applications
) -> None:
    app, ours = application("detector"), gateways.start("--encryption=optional")
    with ReferenceServer(gateways.certificate, gateways.private_key) as theirs:
        opened = run_program(
            "s2uc",
            *request(gateways, theirs.address, ours.address, app, "--plain"),
            S2UC_CONSUMER_TOKEN=read_token_file(ours.tokens["alice"]),
        )
        assert opened.code == 0, opened.err
        message = os.urandom(500_000)
        assert ask(opened.json["listeners"][0], message) == b"detector:" + message
        (shown,) = run_program("s2uc", "status", "--json", *ours.options()).json["sessions"]
        assert (shown["encrypted"], shown["role"], shown["state"]) == (False, "CONS", "connected")


def test_a_reference_consumer_and_our_producer_side_are_refused_where_encryption_is_required(
    gateways: Gateways, application: Applications
) -> None:
    app, ours = application("detector"), gateways.start()
    with ReferenceServer(gateways.certificate, gateways.private_key) as theirs:
        refused = run_program(
            "s2uc",
            *request(gateways, ours.address, theirs.address, app, "--plain"),
            S2UC_PRODUCER_TOKEN=read_token_file(ours.tokens["alice"]),
        )
        assert refused.code == 7
        assert "--encryption optional" in refused.err
        assert theirs.entries == {}


def test_one_side_after_the_other_as_the_reference_client_does_it(
    gateways: Gateways, application: Applications
) -> None:
    app = application("detector")
    host, _, port = app.address.rpartition(":")
    with reference_servers(gateways.certificate, gateways.private_key, 2) as (producer, consumer):
        options = [f"--server_cert={gateways.certificate}", "--plain", "--num_conn", "1", "--rate", "10000"]
        inbound = run_program(
            "s2uc",
            "inbound_request",
            f"--remote_ip={host}",
            f"--receiver_ports={port}",
            f"--s2cs={producer.address}",
            "--mock",
            "True",
            *options,
        )
        assert inbound.code == 0, inbound.err
        uid = "4f8583bc-a4d3-11ee-9fd6-034d1fcbd7c3"
        (listener,) = producer.entries[uid].names()
        assert inbound.out.splitlines()[-1] == f"Listeners: ['{listener}']"
        outbound = run_program(
            "s2uc",
            "outbound_request",
            uid,
            listener,
            f"--s2cs={consumer.address}",
            "--scope=c42c0dac-0a52-408e-a04f-5d31bfe0aef8",
            *options,
        )
        assert outbound.code == 0, outbound.err
        (listener,) = consumer.entries[uid].names()
        assert outbound.out.splitlines()[-1] == f"Listeners: ['{listener}']"
        assert ask(listener, b"hi") == b"detector:hi"


def test_a_server_that_knows_no_reverse_channels_is_named_and_nothing_is_left(
    gateways: Gateways, application: Applications
) -> None:
    app, ours = application("detector"), gateways.start("--encryption=optional")
    with reference_servers(gateways.certificate, gateways.private_key, 1) as (theirs,):
        for producer, consumer in ((ours.address, theirs.address), (theirs.address, ours.address)):
            refused = run_program(
                "s2uc",
                *request(gateways, producer, consumer, app, "--plain", "--reverse"),
                f"--token-file={ours.tokens['alice']}",
            )
            assert refused.code == 4
            assert f"{theirs.address} granted session" in refused.err
            assert "ask without --reverse" in refused.err
            assert not theirs.entries
            listed = run_program("s2uc", "list", *ours.options())
            assert listed.out == "no sessions\n"
