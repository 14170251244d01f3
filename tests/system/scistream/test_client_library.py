"""The synchronous library as programs use it, against control servers that are processes of their own."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import scistream.client
from scistream.auth.shared_key import read_token_file
from scistream.client import ControlClient, Endpoint, Facility, Role, open_session, register, reserve_side
from scistream.core.session import State
from scistream.errors import InvalidArgument, SessionNotFound
from support.gateways import Application, ControlServerProcess, Gateways, ask, can_be_bound, until

Applications = Callable[[str], Application]

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "user.md"


def facility(server: ControlServerProcess) -> Facility:
    return Facility(
        endpoint=Endpoint.parse(server.address),
        server_certificate_pem=server.certificate.read_bytes(),
        token=read_token_file(server.tokens["alice"]),
    )


def states(server: ControlServerProcess) -> list[State]:
    with facility(server).connect() as client:
        return [one.state for one in client.status()]


def test_a_session_is_a_block(gateways: Gateways, application: Applications) -> None:
    producer, consumer = gateways.start(), gateways.start()
    app, other = application("first"), application("second")
    with open_session(
        facility(producer), facility(consumer), targets=[Endpoint.parse(app.address)], lifetime_s=60
    ) as session:
        (listener,) = map(str, session.listeners)
        assert session.encrypted
        assert ask(listener, b"hi") == b"first:hi"
        assert session.status().consumer.bytes_forwarded == len(b"hifirst:hi")
        session.retarget([Endpoint.parse(other.address)])
        assert ask(listener, b"hi") == b"second:hi"
        session.renew()
        assert session.status().producer.targets == (Endpoint.parse(other.address),)
    assert states(producer) == states(consumer) == [State.RELEASED]
    assert can_be_bound(listener)


def test_a_session_works_where_an_event_loop_runs_already(
    gateways: Gateways, application: Applications
) -> None:
    server, app = gateways.start(), application("app")
    other = gateways.start()

    async def notebook_cell() -> bytes:
        with open_session(
            facility(server), facility(other), targets=[Endpoint.parse(app.address)]
        ) as session:
            return ask(str(session.listeners[0]), b"hi")

    assert asyncio.run(notebook_cell()) == b"app:hi"


def test_threads_open_their_sessions_over_the_same_connections(
    gateways: Gateways, application: Applications
) -> None:
    producer, consumer = gateways.start(), gateways.start()
    apps = [application(f"app-{number}") for number in range(6)]
    with facility(producer).connect() as ours, facility(consumer).connect() as theirs:

        def use(app: Application) -> bytes:
            with open_session(ours, theirs, targets=[Endpoint.parse(app.address)]) as session:
                return ask(str(session.listeners[0]), b"hi")

        with ThreadPoolExecutor(len(apps)) as pool:
            assert list(pool.map(use, apps)) == [f"{app.name}:hi".encode() for app in apps]
        assert {one.state for one in ours.status()} == {State.RELEASED}


def test_one_side_is_opened_by_the_user_and_registered_by_the_application(gateways: Gateways) -> None:
    server = gateways.start()
    address = Endpoint("127.0.0.1", 9)
    with facility(server).connect() as client, ThreadPoolExecutor(1) as pool:
        registering = pool.submit(register, facility(server), "by-hand", Role.PRODUCER, [address])
        grant = client.request("by-hand", Role.PRODUCER)
        assert registering.result(20) == grant.listeners
        assert grant.destinations == (address,)
        assert isinstance(client, ControlClient)
        both = reserve_side(client, "at-once", Role.CONSUMER)
        assert both.listeners
        client.release("by-hand")
        assert client.status("by-hand")[0].state is State.RELEASED
        with pytest.raises(SessionNotFound):
            client.status("never-seen")


def test_both_faces_have_the_same_names_and_the_same_parameters() -> None:
    assert scistream.client.__all__ == scistream.client.aio.__all__
    for name in ("open_session", "reserve_side", "register"):
        ours, theirs = (
            inspect.signature(getattr(module, name)).parameters
            for module in (scistream.client, scistream.client.aio)
        )
        assert list(ours) == list(theirs)


def test_errors_are_those_of_the_asynchronous_library(gateways: Gateways) -> None:
    server = gateways.start()
    with pytest.raises(InvalidArgument, match="target"):
        open_session(facility(server), facility(server), targets=[])


def test_waiting_returns_when_the_other_user_releases_and_frees_both_sides(
    gateways: Gateways, application: Applications
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("app")
    with (
        open_session(
            facility(producer), facility(consumer), targets=[Endpoint.parse(app.address)]
        ) as session,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(session.wait, interval_s=0.05)
        with facility(consumer).connect() as client:
            client.release(session.uid)
        assert waiting.result(20).side is Role.CONSUMER
        assert states(producer) == [State.RELEASED]


OPEN = """
    import signal
    import sys
    from pathlib import Path
    from scistream.client import Endpoint, Facility, open_session

    # it is ignored, and inherited so, where a shell without job control has put the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def facility(address):
        return Facility(endpoint=Endpoint.parse(address),
            server_certificate_pem=Path(sys.argv[3]).read_bytes(),
            token=Path(sys.argv[4]).read_text().strip())

    session = open_session(facility(sys.argv[1]), facility(sys.argv[2]), targets=[Endpoint("127.0.0.1", 9)])
    print(*session.listeners)
"""


def start_script(text: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(text), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_while_a_session_opens_releases_what_there_is(gateways: Gateways) -> None:
    producer = gateways.start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = start_script(
            OPEN,
            producer.address,
            f"127.0.0.1:{silent.getsockname()[1]}",
            producer.certificate,
            producer.tokens["alice"],
        )
        until(lambda: State.ANNOUNCED in states(producer))
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert until(lambda: states(producer) == [State.RELEASED])


def test_a_program_that_forgets_its_session_ends_quietly(gateways: Gateways) -> None:
    producer, consumer = gateways.start(), gateways.start()
    process = start_script(
        OPEN, producer.address, consumer.address, producer.certificate, producer.tokens["alice"]
    )
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out
    assert states(producer) == [State.CONNECTED]


# --- the documents' examples, run ------------------------------------------------------------------------


@pytest.fixture
def example(
    gateways: Gateways, application: Applications, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """A function that puts real addresses for the documents'; their files are in the current directory."""
    producer, consumer, app = gateways.start(), gateways.start(), application("app")
    monkeypatch.chdir(tmp_path)
    for name in ("aps", "alcf"):
        shutil.copy(gateways.certificate, f"{name}.crt")
        shutil.copy(gateways.tokens["alice"], f"{name}.token")
    host, port = app.address.split(":")
    names = {
        "gateway.aps.example:5000": producer.address,
        "gateway.alcf.example:5000": consumer.address,
        '"gateway.aps.example", 5000': '"{}", {}'.format(*producer.address.split(":")),
        '"10.0.1.5", 5001': f'"{host}", {port}',
        "10.0.1.5:5001": app.address,
        "10.0.1.6:5001": app.address,
    }

    def replace(text: str) -> str:
        for name, real in names.items():
            text = text.replace(name, real)
        assert ".example" not in text
        assert "10.0." not in text
        return text

    return replace


@pytest.mark.parametrize("number", [0, 1], ids=["synchronous", "asynchronous"])
def test_the_guides_programs_run(example: Callable[[str], str], number: int) -> None:
    programs = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(programs) == 2
    program = programs[number]
    finished = subprocess.run(
        [sys.executable, "-c", example(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    first, second = finished.stdout.splitlines()
    assert first.startswith("connect the consumer application to 127.0.0.1:")
    assert second == "connected 0"


def test_the_librarys_own_example_runs(
    example: Callable[[str], str], gateways: Gateways, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"Path": Path, "alcf": facility(gateways.running[1])}
    for part in doctest.DocTestParser().get_examples(scistream.client.__doc__ or ""):
        exec(compile(example(part.source), "<doc>", "exec"), names)
    assert "connect the consumer application to 127.0.0.1:" in capsys.readouterr().out
    assert states(gateways.running[0]) == [State.RELEASED]


def test_the_asynchronous_librarys_example_runs(
    example: Callable[[str], str], gateways: Gateways, capsys: pytest.CaptureFixture[str]
) -> None:
    producer, consumer = gateways.running
    names: dict[str, object] = {}
    for part in doctest.DocTestParser().get_examples(scistream.client.aio.__doc__ or ""):
        exec(compile(example(part.source), "<doc>", "exec"), names)
    stream = names["stream"]
    assert callable(stream)

    async def work() -> None:
        running = asyncio.ensure_future(stream(producer.facility(), consumer.facility()))
        async with producer.facility().connect() as client, asyncio.timeout(20):
            while not (seen := await client.status()) or seen[0].state is not State.CONNECTED:
                await asyncio.sleep(0.02)
            await client.release(seen[0].uid)
            await running

    asyncio.run(work())
    assert "it has ended: released at the producer's side: released on request" in capsys.readouterr().out
