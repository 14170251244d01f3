"""Relays that run: one or two of a kind in a row, in front of the sink.

Every contestant is a `Chain`: where it listens, and the processes whose CPU time counts. They end with the
process that has started them, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from scistream.bench.peers import Hop, Relay, write_certificates
from scistream.bench.processes import end_with_parent, trees
from scistream.bench.sink import ECHO, connect
from scistream.errors import DataServerError

DIRECT = "direct"
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0
_LAST_WORDS_BYTES = 400


@dataclass
class Chain:
    """One contestant: `port` leads through one or two relays to the sink, or without a relay."""

    name: str
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        """The processes, with those that they have started."""
        return trees(process.pid for process in self.processes)

    def close(self) -> None:
        """End the relays."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
                continue
            process.kill()
            process.wait()


class Stage:
    """Starts relays in a folder of its own and ends them all.

    Parameters
    ----------
    folder : path
        For configurations, certificates and keys; nobody else may read it.
    cores : collection of int
        Where the relays run.
    sink_port : int
        Where the last relay of each chain connects.
    """

    def __init__(self, folder: Path, cores: Collection[int], sink_port: int) -> None:
        self._folder = folder
        self._cores = set(cores)
        self._sink_port = sink_port
        self._count = 0
        self.chains: list[Chain] = []
        write_certificates(folder)

    def close(self) -> None:
        """End every relay."""
        for chain in self.chains:
            chain.close()

    def add_direct(self) -> None:
        """Add the path without a relay."""
        self.chains.append(Chain(DIRECT, self._sink_port))

    def add(self, name: str, relay: Relay, *, hops: int, tls: bool = False) -> None:
        """Start a chain of `hops` relays of one kind.

        Raises
        ------
        DataServerError
            One does not start, or does not relay.
        """
        chain = Chain(name, self._sink_port)
        self.chains.append(chain)  # now, so that `close` ends what has been started
        started = []
        for hop in range(hops):
            port = _free_port()
            self._count += 1
            place = Hop(
                config=self._folder / f"{self._count}.conf",
                listen=f"127.0.0.1:{port}",
                target=f"127.0.0.1:{chain.port}",
                leg="listener" if hop == 0 else "target",
                tls=tls,
                cores=len(self._cores),
            )
            log = self._folder / f"{self._count}.log"
            process = self._start(relay(place), log)
            chain.processes.append(process)
            chain.port = port
            started.append((port, process, log))
        for port, process, log in started:
            _await_listener(name, port, process, log)
        self._try(chain, started[0][2])

    def _start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        def prepare() -> None:
            end_with_parent(signal.SIGTERM)
            os.sched_setaffinity(0, self._cores)

        with log.open("wb") as complaints:
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    start_new_session=True,  # Ctrl-C is for whoever measures
                    preexec_fn=prepare,  # noqa: PLW1509 - no other thread runs
                )
            except OSError as error:
                raise DataServerError(f"{command[0]} cannot be started: {error.strerror}") from error

    def _try(self, chain: Chain, log: Path) -> None:
        """Pass one byte through: the last relay may listen before the others forward."""
        try:
            with connect(chain.port) as sock:
                sock.sendall(ECHO)
                answer = sock.recv(1)
        except OSError as error:
            raise DataServerError(f"{chain.name} does not relay ({error}): {_last_words(log)}") from error
        if answer != ECHO:
            raise DataServerError(f"{chain.name} does not relay: {_last_words(log)}")


def _free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _await_listener(name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise DataServerError(f"{name} does not listen on port {port}: {_last_words(log)}")


def _last_words(log: Path) -> str:
    words = " ".join(log.read_text(errors="replace").split())
    return words[-_LAST_WORDS_BYTES:] or "it says nothing"
