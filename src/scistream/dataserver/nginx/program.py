"""Nginx: its configuration, and one master process of it with its workers.

It finds its listening sockets by the variable ``NGINX`` (their descriptors) and by their addresses, as it
does when its binary is replaced. SIGHUP makes it read its configuration again: new workers accept, those
before finish their connections ("Controlling nginx" in its documentation). Connections that have ended are
known from its access log, those that are open from the kernel.

It passes on the end of one direction (``proxy_half_close``), on an encrypted leg by TCP's FIN without TLS's
close_notify (seen with 1.22). To the native data server that is a cut stream, unless it is told that its
peer is such a one (`DataServerBackend.omits_close_notify`). Without half-close nginx would drop what still
comes from the other direction.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Collection
from pathlib import Path

from scistream.core.endpoint import Endpoint
from scistream.dataserver.programs.connections import Ended
from scistream.dataserver.programs.credentials import OWN, PEER, peer_name
from scistream.dataserver.programs.logged import LoggedInstance
from scistream.dataserver.programs.plan import Plan
from scistream.dataserver.programs.program import (
    CIPHERSUITES,
    CONNECT_LIMIT_S,
    NO_LIMIT_S,
    Instance,
    Program,
    connection_limit,
)
from scistream.dataserver.programs.render import Template, refuse_control_characters
from scistream.errors import DataServerError

OLDEST = (1, 21, 4)
"""The first one that passes on the end of one direction (``proxy_half_close``)."""
BUFFER_BYTES = 64 * 1024
MARK = "scistream-ended"
FORWARDED = 200
"""The status of a connection that was."""
_REASONS = {400: "the peer has not proved itself", 500: "no TLS", 502: "the target refuses, or is another"}

_MODULE = "ngx_stream_module.so"
_MODULE_PACKAGE = "libnginx-mod-stream"
_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")
_ENDED = re.compile(rf"{MARK} (\S+) (\d+) (\d+) (\d+) (\S+) (\d+)")
_LOG_LINE = re.compile(r"\S+ \S+ \[(\w+)\] (\d+)#\d+: (.*)")
_STARTED = re.compile(r"start worker process (\d+)")
_EXITED = re.compile(r"worker process (\d+) exited")


def escape(text: str) -> str:
    """Return `text` as one word, in quotes where it is not plain.

    Raises
    ------
    DataServerError
        It holds control characters, or a ``$``, for which nginx has no escape.
    """
    refuse_control_characters(text)
    if "$" in text:
        raise DataServerError(f"{text!r} cannot stand in nginx's configuration, because of the $")
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Nginx(Program):
    """The program nginx, with its stream module."""

    name = "nginx"
    package = f"nginx {_MODULE_PACKAGE}"
    _template = Template(Path(__file__).with_name("nginx.conf.j2"), escape)
    _module = ""

    def check_version(self) -> None:
        """Check that it is not too old, and has streams with TLS, built in or as a module.

        Raises
        ------
        DataServerError
            It is, or has not.
        """
        said = self.place.output_of([self.binary, "-V"])
        self.version_in(said, r"nginx version: \S+?/(\d+\.\d+\.\d+)", OLDEST)
        if "--with-stream_ssl_module" not in said:
            raise self.lacks("was built without --with-stream_ssl_module")
        if "--with-stream=dynamic" in said:
            folder = re.search(r"--modules-path=(\S+)", said)
            module = Path(folder.group(1) if folder else "/usr/lib/nginx/modules") / _MODULE
            if not self.place.is_file(str(module)):
                raise self.lacks(f"has no stream module ({module})", _MODULE_PACKAGE)
            self._module = str(module)
        elif "--with-stream" not in said.split():
            raise self.lacks("was built without --with-stream")

    def configuration(self, plan: Plan, folder: str) -> bytes:
        """Return the configuration."""
        tries = max(len(channel.addresses) for channel in plan.channels)
        return self._template.render(
            plan=plan,
            module=self._module,
            pid_file=f"{self.place.scratch}nginx.pid",
            user="root" if os.geteuid() == 0 else "",
            workers=self.workers,
            connections=connection_limit(len(plan.channels)) * 2,
            mark=MARK,
            buffer_bytes=BUFFER_BYTES,
            connect_s=max(CONNECT_LIMIT_S // tries, 1),
            handshake_s=CONNECT_LIMIT_S,
            no_limit_s=NO_LIMIT_S,
            ciphersuites=CIPHERSUITES,
            own=f"{folder}/{OWN}",
            peer=f"{folder}/{PEER}",
            peer_name=peer_name(plan.tls) if plan.tls is not None else "",
        )

    def check_command(self, path: Path, file: str) -> list[str]:
        """Return nginx's own check."""
        # a relative path would be put before a file's name once per server
        return [self.binary, "-t", "-e", "stderr", "-p", f"{path}", "-c", file]

    def command(self, path: Path, file: str) -> list[str]:
        """Return the command that runs it in the foreground."""
        return [self.binary, "-e", "stderr", "-p", f"{path}", "-c", file]

    def environment(self, pid: int, plan: Plan) -> dict[str, str]:
        """Return the environment, with the listening sockets' descriptors."""
        descriptors = "".join(f"{channel.descriptor};" for channel in plan.channels)
        return {**super().environment(pid, plan), "NGINX": descriptors}

    @staticmethod
    def worth_saying(line: str) -> str:
        """Return the line without time and process; notices are not worth it."""
        found = _LOG_LINE.fullmatch(line)
        if found is None:
            return line.strip()
        level, _, words = found.groups()
        return "" if level == "notice" else words

    def instance(self, plan: Plan) -> Instance:
        """Return what a process will be."""
        return NginxInstance(plan)


class NginxInstance(LoggedInstance):
    """One nginx."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, [[0] * 5 for _ in plan.channels], Ended())
        self._names = {channel.name: index for index, channel in enumerate(plan.channels)}
        self._workers: set[int] = set()
        self._leaving: set[int] = set()
        self._changed = asyncio.Event()

    async def ready(self) -> None:
        """Return when it has a worker."""
        while not self._workers:
            await self._change()

    async def reload(self, plan: Plan) -> None:
        """Return when the workers with the configuration before accept no more."""
        before = set(self._workers)
        self.running.signal(signal.SIGHUP)
        while before & (self._workers - self._leaving) or self._workers <= before:
            await self._change()
        self.retargeted(plan)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def on_line(self, line: str) -> str:
        """Count a connection that has ended, note workers that come and go; return other lines."""
        ended = _ENDED.fullmatch(line)
        if ended is not None:
            name, status, received, sent, host, port = ended.groups()
            self._closing.add(Endpoint(host.removeprefix("::ffff:"), int(port)))
            figures = self._ended[self._names[name]]
            figures[1] += 1
            if int(status) == FORWARDED:
                figures[3] += int(received)
                figures[4] += int(sent)
            else:
                figures[2] += 1
                self.on_refused(self._names[name])
                return f"{name}: connection refused: {_REASONS.get(int(status), status)}"
            return ""
        self._note_workers(line)
        return Nginx.worth_saying(line)

    def _note_workers(self, line: str) -> None:
        found = _LOG_LINE.fullmatch(line)
        if found is None:
            return
        _, pid, words = found.groups()
        if started := _STARTED.match(words):
            self._workers.add(int(started.group(1)))
        elif exited := _EXITED.match(words):
            self._workers.discard(int(exited.group(1)))
            self._leaving.discard(int(exited.group(1)))
        elif words == "gracefully shutting down":
            self._leaving.add(int(pid))
        self._changed.set()

    @property
    def pids(self) -> Collection[int]:
        """Its workers."""
        return self.running.pids_of(self._workers)
