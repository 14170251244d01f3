"""Gateways for the control plane's benchmark: real `s2cs` processes with TLS, tokens and a state directory.

Also what they use: memory, CPU, processes, open files, key files; and what they leave behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from control_load import pinned

from scistream.auth.certificates import write_certificate
from scistream.auth.shared_key import create_token_file, read_token_file
from scistream.bench.processes import cpu_seconds, tree

PROGRAMS = Path(sys.executable).parent
_START_LIMIT_S = 30
_STOP_LIMIT_S = 60
# if the benchmark itself is killed, what it has started ends by itself after this
_ORPHAN_LIMIT_S = 30


@dataclass(frozen=True)
class Use:
    """What a gateway uses at one moment.

    Attributes
    ----------
    control_mb, control_rss_mb : float
        Memory of the control server's process: what is its alone (USS), and all that is mapped (RSS).
    data_mb : float
        Memory of the data server's processes (USS). Other programs' share of the code does not change it.
    cpu_s : float
        CPU time of the control server's process so far.
    data_cpu_s : float
        The same of the data server's processes.
    pids : frozenset of int
        All processes.
    """

    control_mb: float
    control_rss_mb: float
    data_mb: float
    cpu_s: float
    data_cpu_s: float
    pids: frozenset[int]


class Gateway:
    """One ``s2cs start``, ready.

    Parameters
    ----------
    state : Path
        Its state directory.
    cores : set of int or None
        Where it and its data server may run; None: anywhere.
    """

    def __init__(
        self, arguments: list[str], state: Path, environment: dict[str, str], cores: set[int] | None
    ) -> None:
        self._log = state.with_suffix(".log")
        self._state = state
        with self._log.open("w") as stderr:
            self._process = subprocess.Popen(
                [PROGRAMS / "s2cs", "start", "--json", f"--state-dir={state}", *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                preexec_fn=pinned(cores),  # noqa: PLW1509 - one thread
                text=True,
            )
        try:
            self.address = self._wait_until_ready()
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise

    @property
    def pid(self) -> int:
        """The control server's process."""
        return self._process.pid

    def use(self) -> Use:
        """Return what it uses now."""
        pids = tree(self.pid)
        memory = {pid: psutil.Process(pid).memory_full_info() for pid in pids}
        return Use(
            control_mb=memory[self.pid].uss / 1e6,
            control_rss_mb=memory[self.pid].rss / 1e6,
            data_mb=sum(memory[pid].uss for pid in pids[1:]) / 1e6,
            cpu_s=cpu_seconds(pids[:1]),
            data_cpu_s=cpu_seconds(pids[1:]),
            pids=frozenset(pids),
        )

    def descriptors(self) -> int:
        """Return how many files all its processes have open."""
        return sum(psutil.Process(pid).num_fds() for pid in tree(self.pid))

    def key_files(self) -> int:
        """Return how many private keys are in its state directory."""
        return len(os.listdir(self._state / "keys"))

    def complaints(self) -> int:
        """Return how many lines of its log are warnings or errors."""
        lines = self._log.read_text().splitlines()
        return sum(" WARNING " in line or " ERROR " in line for line in lines)

    def stop(self) -> None:
        """Release everything and end it.

        Raises
        ------
        RuntimeError
            It had to be killed, or left processes behind; they are ended too.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(pid) for pid in tree(self.pid)[1:]]
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
            try:
                self._process.communicate(timeout=_STOP_LIMIT_S)
                late = False
            except subprocess.TimeoutExpired:
                late = True
                self._process.kill()
                self._process.communicate()
            _, left = psutil.wait_procs(family, timeout=10)
            for process in left:
                process.kill()
            if late or left:
                raise RuntimeError(
                    f"s2cs had to be killed, or left {len(left)} processes behind: {self._tail()}"
                )

    def _wait_until_ready(self) -> str:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(_START_LIMIT_S) else ""
        if not line:
            raise RuntimeError(f"s2cs does not start: {self._tail()}")
        return str(json.loads(line)["address"])

    def _tail(self) -> str:
        return self._log.read_text()[-2000:]


class Site:
    """A folder with certificate and tokens, and the gateways that run from it; a context manager.

    Parameters
    ----------
    users : int
        How many tokens there are.
    """

    def __init__(self, folder: Path, users: int) -> None:
        self._folder = folder
        self._auth_file = folder / "tokens.toml"
        self.certificate, self._private_key = write_certificate(folder, ["127.0.0.1", "localhost"])
        self.token_files = [folder / f"user{number}.token" for number in range(users)]
        for path in self.token_files:
            create_token_file(path.stem, self._auth_file, path)
        # what is configured on this machine is not read
        self.environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "none")}
        self._gateways: list[Gateway] = []

    def start(
        self, name: str, ports: tuple[int, int], *options: str, cores: set[int] | None = None
    ) -> Gateway:
        """Start a gateway with the data ports from the first to the second of `ports`."""
        arguments = [
            "--listen=127.0.0.1:0",
            f"--port-range={ports[0]}-{ports[1]}",
            f"--certificate={self.certificate}",
            f"--private-key={self._private_key}",
            "--auth=shared-key",
            f"--auth-file={self._auth_file}",
            f"--orphan-limit-s={_ORPHAN_LIMIT_S}",
            *options,
        ]
        gateway = Gateway(arguments, self._folder / name, self.environment, cores)
        self._gateways.append(gateway)
        return gateway

    def settings(self) -> dict[str, Any]:
        """Return what a load generator has to know. It holds the tokens: not for an argument list."""
        return {
            "gateways": [gateway.address for gateway in self._gateways],
            "certificate": self.certificate.read_text(),
            "tokens": [read_token_file(path) for path in self.token_files],
        }

    def __enter__(self) -> Site:
        """Return the site itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop every gateway, whatever happens; then say what was wrong with one."""
        with contextlib.ExitStack() as stack:
            for gateway in self._gateways:
                stack.callback(gateway.stop)


def ports_held(ports: Collection[int]) -> int:
    """Return how many of `ports` cannot be listened on."""
    held = 0
    for port in ports:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                sock.listen()
            except OSError:
                held += 1
    return held
