"""The relays that are compared: ours, haproxy, nginx and stunnel, each started once and pinned to one core.

Every contestant is a `Chain`: where it listens, and the processes whose CPU time counts. Two hops are two
instances in a row; with TLS the leg between them is TLS 1.3, both sides prove a self-signed certificate
that the other one pins, AES-128-GCM.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relay_load import ECHO, connect, tree

from scistream.auth.certificates import make_certificate
from scistream.dataserver.native.tls_kernel import why_no_kernel_tls

CIPHERSUITE = "TLS_AES_128_GCM_SHA256"
BUFFER_BYTES = 256 * 1024
_SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@dataclass
class Chain:
    """One contestant: `port` leads through one or two relays to the sink."""

    name: str
    port: int
    processes: list[subprocess.Popen[bytes]]

    @property
    def pids(self) -> list[int]:
        """The processes, with those that they have started."""
        return [pid for process in self.processes for pid in tree(process.pid)]

    def close(self) -> None:
        """End the relays."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                continue
            process.kill()
            process.wait()


def program(name: str) -> str | None:
    """Return where a program of the system is."""
    return shutil.which(name, path=_SEARCH_PATH)


def version(name: str) -> str:
    """Return what an installed program says of its version, in one line."""
    flag = {"haproxy": "-v", "nginx": "-v", "stunnel": "-version"}[name]
    result = subprocess.run([str(program(name)), flag], capture_output=True, text=True, check=False)
    return (result.stdout + result.stderr).strip().splitlines()[0]


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Stage:
    """Starts relays in a folder of its own and ends them all."""

    def __init__(self, folder: Path, core: int, sink_port: int) -> None:
        self._folder = folder
        self._core = core
        self._sink_port = sink_port
        self._count = 0
        self.chains: list[Chain] = []
        write_certificates(folder)

    def close(self) -> None:
        """End every relay."""
        for chain in self.chains:
            chain.close()

    def add(self, name: str, relay: Relay, *, hops: int, tls: bool = False) -> None:
        """Start a chain of `hops` relays of one kind."""
        target, processes, ports = self._sink_port, [], []
        for hop in range(hops):
            port = free_port()
            self._count += 1
            config = self._folder / f"{self._count}.conf"
            leg = "listener" if hop == 0 else "target"
            place = Hop(config, f"127.0.0.1:{port}", f"127.0.0.1:{target}", leg, tls=tls)
            processes.append(
                subprocess.Popen(
                    relay(place),
                    stdout=subprocess.DEVNULL,
                    stderr=(self._folder / f"{self._count}.log").open("wb"),
                    preexec_fn=lambda: os.sched_setaffinity(0, {self._core}),  # noqa: PLW1509
                )
            )
            ports.append(port)
            target = port
        for port, process in zip(ports, processes, strict=True):
            _await_listener(port, process, name)
        with connect(target) as sock:  # the last relay may listen before the others forward
            sock.sendall(ECHO)
            if sock.recv(1) != ECHO:
                raise RuntimeError(f"{name} does not relay: see {self._folder}")
        self.chains.append(Chain(name, target, processes))


@dataclass(frozen=True)
class Hop:
    """One relay's place: `leg` ("listener" or "target") is the one between two gateways."""

    config: Path
    listen: str
    target: str
    leg: str
    tls: bool

    @property
    def own(self) -> Path:
        """The certificate that it proves, with suffix crt, key or pem (both)."""
        return self.config.parent / ("producer" if self.leg == "listener" else "consumer")

    @property
    def peer(self) -> Path:
        """The certificate that the other gateway has to prove."""
        return self.config.parent / ("consumer" if self.leg == "listener" else "producer")


Relay = Callable[[Hop], list[str]]
"""Returns the command that is this relay at a place, after having written its configuration there."""


def write_certificates(folder: Path) -> None:
    """Write the certificates of both gateways, and their keys."""
    for side in ("producer", "consumer"):
        certificate, key = make_certificate(["gateway"])
        (folder / f"{side}.crt").write_bytes(certificate)
        (folder / f"{side}.key").write_bytes(key)
        (folder / f"{side}.pem").write_bytes(certificate + key)


def _await_listener(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise RuntimeError(f"{name} does not listen on port {port}")


def ours(*more: str) -> Relay:
    """Return how our data server is started."""

    def command(hop: Hop) -> list[str]:
        program_here = str(Path(sys.executable).parent / "s2ds")
        arguments = [program_here, "forward", "--listen", hop.listen, "--target", hop.target, *more]
        arguments += ["--wan-leg", hop.leg]
        if hop.tls:
            arguments += ["--tls-leg", hop.leg, "--certificate", f"{hop.own}.crt"]
            arguments += ["--private-key", f"{hop.own}.key", "--peer-certificate", f"{hop.peer}.crt"]
        return arguments

    return command


def haproxy(*global_settings: str, splice: bool = False) -> Relay:
    """Return how haproxy is started with these lines in its global section."""

    def command(hop: Hop) -> list[str]:
        tls = f"ssl crt {hop.own}.pem ca-file {hop.peer}.crt verify required ssl-min-ver TLSv1.3"
        tls += f" ciphersuites {CIPHERSUITE}"
        lines = [
            "global",
            *(f"  {line}" for line in global_settings),
            "defaults",
            "  mode tcp",
            *(f"  timeout {kind} 1h" for kind in ("connect", "client", "server")),
            *(("  option splice-request", "  option splice-response") if splice else ()),
            "listen relay",
            f"  bind {hop.listen} {tls if hop.tls and hop.leg == 'listener' else ''}",
            f"  server target {hop.target} {tls if hop.tls and hop.leg == 'target' else ''}",
        ]
        hop.config.write_text("\n".join(lines) + "\n")
        return [str(program("haproxy")), "-q", "-db", "-f", str(hop.config)]

    return command


def nginx(*settings: str) -> Relay:
    """Return how nginx is started with these lines in its server section."""

    def command(hop: Hop) -> list[str]:
        module = next((path for path in Path("/usr/lib").glob("*/modules/ngx_stream_module.so")), None)
        listener_tls = [
            f"ssl_certificate {hop.own}.crt;",
            f"ssl_certificate_key {hop.own}.key;",
            f"ssl_client_certificate {hop.peer}.crt;",
            "ssl_verify_client on;",
            "ssl_protocols TLSv1.3;",
            f"ssl_conf_command Ciphersuites {CIPHERSUITE};",
        ]
        target_tls = [
            "proxy_ssl on;",
            f"proxy_ssl_certificate {hop.own}.crt;",
            f"proxy_ssl_certificate_key {hop.own}.key;",
            f"proxy_ssl_trusted_certificate {hop.peer}.crt;",
            "proxy_ssl_verify on;",
            "proxy_ssl_name gateway;",
            "proxy_ssl_protocols TLSv1.3;",
            f"proxy_ssl_conf_command Ciphersuites {CIPHERSUITE};",
        ]
        lines = [
            *([f"load_module {module};"] if module else []),
            "daemon off;",
            "worker_processes 1;",
            f"pid {hop.config}.pid;",
            "error_log stderr error;",
            "events { worker_connections 16384; }",
            "stream { server {",
            f"listen {hop.listen} {'ssl' if hop.tls and hop.leg == 'listener' else ''};",
            f"proxy_pass {hop.target};",
            "proxy_timeout 1h;",
            "proxy_half_close on;",  # without it the end of one direction ends both
            *settings,
            *(() if not hop.tls else listener_tls if hop.leg == "listener" else target_tls),
            "} }",
        ]
        hop.config.write_text("\n".join(lines) + "\n")
        return [str(program("nginx")), "-e", "stderr", "-p", str(hop.config.parent), "-c", str(hop.config)]

    return command


def stunnel() -> Relay:
    """Return how stunnel is started; it has encrypted hops only."""

    def command(hop: Hop) -> list[str]:
        lines = [
            "foreground = yes",
            "pid =",
            "debug = 3",
            "socket = l:TCP_NODELAY=1",
            "socket = r:TCP_NODELAY=1",
            "[relay]",
            f"client = {'yes' if hop.leg == 'target' else 'no'}",
            f"accept = {hop.listen}",
            f"connect = {hop.target}",
            f"cert = {hop.own}.crt",
            f"key = {hop.own}.key",
            f"CAfile = {hop.peer}.crt",
            "verifyPeer = yes",
            "sslVersionMin = TLSv1.3",
            f"ciphersuites = {CIPHERSUITE}",
        ]
        hop.config.write_text("\n".join(lines) + "\n")
        return [str(program("stunnel")), str(hop.config)]

    return command


def plain_contestants() -> dict[str, Relay]:
    """Return the relays for plain TCP that are installed."""
    found: dict[str, Relay] = {"ours": ours()}
    if program("haproxy"):
        found["haproxy"] = haproxy()
        found["haproxy-splice"] = haproxy("tune.pipesize 1048576", splice=True)
        found["haproxy-256k"] = haproxy(f"tune.bufsize {BUFFER_BYTES}")
    if program("nginx"):
        found["nginx"] = nginx()
        found["nginx-256k"] = nginx(f"proxy_buffer_size {BUFFER_BYTES};")
    return found


def tls_contestants() -> dict[str, Relay]:
    """Return the relays with TLS that are installed."""
    found: dict[str, Relay] = {"ours": ours(), "ours-stdlib": ours("--tls-engine", "stdlib")}
    if not why_no_kernel_tls():  # else it is ours as it comes
        found["ours-openssl"] = ours("--tls-engine", "openssl")
    if program("haproxy"):
        found["haproxy"] = haproxy()
        found["haproxy-256k"] = haproxy(f"tune.bufsize {BUFFER_BYTES}")
    if program("nginx"):
        found["nginx"] = nginx()
        found["nginx-256k"] = nginx(f"proxy_buffer_size {BUFFER_BYTES};")
    if program("stunnel"):
        found["stunnel"] = stunnel()
    return found
