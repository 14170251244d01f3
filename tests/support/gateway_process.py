"""A control server's process as far as its data servers see it: a program that tests start, kill and replace.

It opens a backend with persistence, starts the sessions that one JSON line on standard input describes, says
on standard output where they are, and goes on until it is killed or told ``detach`` or ``close``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scistream.core.endpoint import Endpoint
from scistream.dataserver import DataServerSpec, Persistence, TlsCredentials, TlsLeg, create_backend
from support.processes import MARK

TESTS = Path(__file__).resolve().parents[1]


def session_body(
    uid: str, targets: Sequence[Endpoint], tls: TlsCredentials | None = None, *, channels: int = 1
) -> dict[str, Any]:
    """A session in the form in which the program reads it."""
    return {
        "uid": uid,
        "targets": [[target.host, target.port] for target in targets],
        "channels": channels,
        "tls": tls
        and {
            "leg": tls.leg.value,
            "certificate_pem": tls.certificate_pem.decode(),
            "private_key_pem": tls.private_key_pem.decode(),
            "peer_certificate_pem": tls.peer_certificate_pem.decode(),
        },
    }


def _spec(body: dict[str, Any], listeners: Sequence[socket.socket]) -> DataServerSpec:
    tls = body["tls"]
    return DataServerSpec(
        uid=body["uid"],
        listeners=tuple(listeners),
        targets=tuple(Endpoint(host, port) for host, port in body["targets"]),
        tls=tls
        and TlsCredentials(
            leg=TlsLeg(tls["leg"]),
            **{name: tls[name].encode() for name in tls if name != "leg"},
        ),
    )


@dataclass
class GatewayProcess:
    """The program as a test sees it."""

    process: subprocess.Popen[str]
    handles: dict[str, str]
    at: dict[str, list[Endpoint]]
    pids: list[int]
    inheritable: Endpoint
    """Where something listens of which the data servers should know nothing."""

    @classmethod
    def start(
        cls,
        mark: str,
        directory: Path,
        sessions: Sequence[dict[str, Any]],
        *,
        kind: str = "native",
        workers: int = 2,
        orphan_limit_s: float = 60,
        **settings: Any,
    ) -> GatewayProcess:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "support.gateway_process", str(directory), str(orphan_limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: mark, "PYTHONPATH": str(TESTS)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        print(
            json.dumps(
                {"kind": kind, "settings": {"workers": workers, **settings}, "sessions": list(sessions)}
            ),
            file=process.stdin,
            flush=True,
        )
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate()[1])
        said = json.loads(line)
        at = {uid: [Endpoint("127.0.0.1", port) for port in ports] for uid, ports in said["ports"].items()}
        return cls(process, said["handles"], at, said["pids"], Endpoint("127.0.0.1", said["inheritable"]))

    def kill(self) -> None:
        """As kill -9, with everything that was open closed, its standard error included."""
        self.process.kill()
        self.process.communicate()

    def tell(self, word: str) -> int:
        """Say `word`, and return the program's exit code."""
        self.process.communicate(word + "\n", timeout=20)
        return self.process.returncode


async def _main(directory: Path, orphan_limit_s: float) -> None:
    loop = asyncio.get_running_loop()
    order = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    inheritable = socket.create_server(("127.0.0.1", 0))
    inheritable.set_inheritable(True)
    backend = create_backend(order["kind"], order["settings"])
    await backend.open(Persistence(directory, orphan_limit_s))
    handles, ports, kept = {}, {}, []
    for body in order["sessions"]:
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(body["channels"])]
        kept += listeners
        server = backend.create()
        await server.start(_spec(body, listeners))
        handles[body["uid"]] = server.handle
        ports[body["uid"]] = [listener.getsockname()[1] for listener in listeners]
    said = {
        "handles": handles,
        "ports": ports,
        "pids": backend.pids,  # type: ignore[attr-defined] # those of all trees have it
        "inheritable": inheritable.getsockname()[1],
    }
    print(json.dumps(said), flush=True)
    word = await loop.run_in_executor(None, sys.stdin.readline)
    if word.strip() == "detach":
        await backend.detach()
    else:
        await backend.close()
    for listener in (*kept, inheritable):
        listener.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    asyncio.run(_main(Path(sys.argv[1]), float(sys.argv[2])))
