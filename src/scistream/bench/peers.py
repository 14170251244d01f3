"""The relays that are compared: ours, haproxy, nginx and stunnel, and how each is configured and started.

With TLS the leg between two of them is TLS 1.3, both sides prove a self-signed certificate that the other
one pins, AES-128-GCM.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scistream.auth.certificates import make_certificate
from scistream.dataserver.native.tls_kernel import why_no_kernel_tls

OURS = "ours"
PROGRAMS = ("haproxy", "nginx", "stunnel")
CIPHERSUITE = "TLS_AES_128_GCM_SHA256"
BUFFER_BYTES = 256 * 1024
_SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def program(name: str) -> str | None:
    """Return where a program of the system is."""
    return shutil.which(name, path=_SEARCH_PATH)


def version(name: str) -> str:
    """Return what an installed program says of its version, in one line."""
    flag = {"haproxy": "-v", "nginx": "-v", "stunnel": "-version"}[name]
    result = subprocess.run([str(program(name)), flag], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).strip().splitlines()
    # stunnel has something else to say first
    return next((line for line in lines if line.lower().startswith(name)), lines[0] if lines else "unknown")


@dataclass(frozen=True)
class Hop:
    """One relay's place, and what it may use.

    Parameters
    ----------
    config : path
        Its configuration file; the certificates of both sides are beside it.
    listen, target : str
        HOST:PORT.
    leg : str
        "listener" or "target": the one between two gateways.
    tls : bool
        Whether that leg is encrypted.
    cores : int
        For relays that do not find out by themselves.
    """

    config: Path
    listen: str
    target: str
    leg: str
    tls: bool
    cores: int = 1

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


def ours(*more: str) -> Relay:
    """Return how our data server is started."""

    def command(hop: Hop) -> list[str]:
        # -P: no module of the user's working directory takes the place of one of ours
        arguments = [sys.executable, "-P", "-m", "scistream.cli.s2ds", "forward"]
        arguments += ["--listen", hop.listen, "--target", hop.target, *more]
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
            f"worker_processes {hop.cores};",
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
    found: dict[str, Relay] = {OURS: ours()}
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
    found: dict[str, Relay] = {OURS: ours(), "ours-stdlib": ours("--tls-engine", "stdlib")}
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


def contestants() -> list[str]:
    """Return the names of all relays that are installed, ours first."""
    return list({**plain_contestants(), **tls_contestants()})
