"""How long one set-up takes, from nothing to the first byte end to end: by the command, and by the library.

The library's part is a program of its own: settings come on its standard input, the answer is on its standard
output. Times are in seconds.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from typing import Any

_LIMIT_S = 60.0
_MESSAGE = b"x" * 36

Times = dict[str, list[float]]


def command_times(site: Any, target: str, rounds: int) -> Times:
    """Return the times of ``s2uc request`` as a process, from its start.

    `first_byte` ends when a byte that the consumer application has sent comes back from the producer's,
    `exit` when the process has ended; `release` is that of ``s2uc release``.
    """
    from control_gateways import PROGRAMS

    ours, theirs = site.settings()["gateways"]
    common = ["--token-file", str(site.token_files[0]), "--json"]
    both = ["--producer-certificate", str(site.certificate), "--consumer-certificate", str(site.certificate)]
    times: Times = {"first_byte": [], "exit": [], "release": []}
    for _ in range(rounds):
        began = time.perf_counter()
        arguments = [PROGRAMS / "s2uc", "request", ours, theirs, "--target", target, *both, *common]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=site.environment, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("s2uc request has failed; its complaint is above")
            found = json.loads(line)
            first_byte(found["listeners"][0])
            times["first_byte"].append(time.perf_counter() - began)
            process.wait()  # with a limit it would be looked for every 50 ms only
            times["exit"].append(time.perf_counter() - began)
        began = time.perf_counter()
        subprocess.run(
            [
                PROGRAMS / "s2uc",
                "release",
                found["uid"],
                f"--s2cs={ours}",
                f"--s2cs={theirs}",
                f"--certificate={site.certificate}",
                *common,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env=site.environment,
        )
        times["release"].append(time.perf_counter() - began)
    return times


def start_up_times(site: Any, rounds: int) -> Times:
    """Return how long the commands take to say what they are."""
    from control_gateways import PROGRAMS

    commands = [("s2uc", "--version"), ("s2uc", "--help"), ("s2uc", "request", "--help"), ("s2cs", "--help")]
    times: Times = {"python -c pass": [], **{" ".join(command): [] for command in commands}}
    for _ in range(rounds):
        for name in times:
            program, *arguments = name.split()
            began = time.perf_counter()
            subprocess.run(
                [PROGRAMS / program, *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
                env=site.environment,
            )
            times[name].append(time.perf_counter() - began)
    return times


def library_times(settings: dict[str, Any], target: str, rounds: int) -> Times:
    """Return the times of the library with connections that are open already, in a process of its own.

    `open` is `scistream.client.aio.open_session`, `first_byte` that and a byte there and back, `release` the
    session's end; `blocking …` the same by `scistream.client`.
    """
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps({"settings": settings, "target": target, "rounds": rounds}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=_LIMIT_S + rounds,
    )
    times: Times = json.loads(done.stdout)
    return times


def first_byte(listener: str) -> None:
    """Send a message to `listener`, and return when the producer's application has sent it back."""
    host, _, port = listener.rpartition(":")
    with socket.create_connection((host, int(port)), _LIMIT_S) as sock:
        sock.sendall(_MESSAGE)
        if not sock.recv(1):
            raise RuntimeError(f"{listener} has closed the connection")


async def _by_library(settings: dict[str, Any], target: str, rounds: int) -> Times:
    from scistream.client.aio import Endpoint, Facility, open_session

    times: Times = {"open": [], "first_byte": [], "release": []}
    clients = [
        Facility(
            endpoint=Endpoint.parse(address),
            server_certificate_pem=settings["certificate"].encode(),
            token=settings["tokens"][0],
        ).connect()
        for address in settings["gateways"]
    ]
    async with clients[0], clients[1]:
        for client in clients:
            await client.status()
        for _ in range(rounds):
            began = time.perf_counter()
            session = await open_session(*clients, targets=[Endpoint.parse(target)])
            times["open"].append(time.perf_counter() - began)
            await asyncio.to_thread(first_byte, str(session.listeners[0]))
            times["first_byte"].append(time.perf_counter() - began)
            began = time.perf_counter()
            await session.release()
            times["release"].append(time.perf_counter() - began)
    return times


def _by_blocking_library(settings: dict[str, Any], target: str, rounds: int) -> Times:
    from scistream.client import Endpoint, Facility, open_session

    times: Times = {"blocking open": [], "blocking first_byte": [], "blocking release": []}
    clients = [
        Facility(
            endpoint=Endpoint.parse(address),
            server_certificate_pem=settings["certificate"].encode(),
            token=settings["tokens"][0],
        ).connect()
        for address in settings["gateways"]
    ]
    with clients[0], clients[1]:
        for client in clients:
            client.status()
        for _ in range(rounds):
            began = time.perf_counter()
            session = open_session(clients[0], clients[1], targets=[Endpoint.parse(target)])
            times["blocking open"].append(time.perf_counter() - began)
            first_byte(str(session.listeners[0]))
            times["blocking first_byte"].append(time.perf_counter() - began)
            began = time.perf_counter()
            session.release()
            times["blocking release"].append(time.perf_counter() - began)
    return times


def _main() -> None:
    wanted = json.loads(sys.stdin.read())
    times = asyncio.run(_by_library(**wanted)) | _by_blocking_library(**wanted)
    print(json.dumps(times))


if __name__ == "__main__":
    _main()
