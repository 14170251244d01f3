"""HAProxy: its configuration, and one process of it.

Retargeting starts a new process on the same listening sockets and tells the old one by SIGUSR1 to accept no
more and to end after its last connection (HAProxy's management guide, "Stopping and restarting"). Its
statistics are asked over a connected socket that it inherits (``sockpair@``), not one with a path, which
others could use. That connection holds up the end of the old process: it is closed after the last connection.

No splicing: a stream whose two directions end at nearly the same time then loses what haproxy 2.6 has not
read yet, in a third of the cases (10 MB each way on one machine); without it in one of a hundred.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from typing import ClassVar

from scistream.dataserver.haproxy.statistics import (
    FIGURES_COMMAND,
    STATE_COMMAND,
    is_stopping,
    read_failure,
    read_figures,
)
from scistream.dataserver.programs.credentials import OWN, PEER
from scistream.dataserver.programs.plan import FIRST_DESCRIPTOR, Plan
from scistream.dataserver.programs.program import (
    CIPHERSUITES,
    CONNECT_LIMIT_S,
    NO_LIMIT_S,
    Figures,
    Instance,
    Program,
    connection_limit,
)
from scistream.dataserver.programs.render import Template, refuse_control_characters
from scistream.errors import DataServerError

OLDEST = (2, 6)
"""Whose error-log-format and ``sockpair@`` are what is used here."""
BUFFER_BYTES = 64 * 1024
MARK = "scistream-failed"
SHORTEST_CONNECT_S = 2
"""In which a lost packet is sent again once."""
FINISHED_POLL_S = 0.5
"""How often a process that accepts no more is asked whether it has connections left."""

_PROMPT = b"\n> "
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./:+")


def escape(text: str) -> str:
    r"""Return `text` as one word: what HAProxy's reader could take for anything else becomes ``\xHH``.

    Raises
    ------
    DataServerError
        It holds control characters.
    """
    refuse_control_characters(text)
    return "".join(
        one if one in _PLAIN else "".join(f"\\x{byte:02x}" for byte in one.encode()) for one in text
    )


class Haproxy(Program):
    """The program haproxy."""

    name = "haproxy"
    package = "haproxy"
    _template = Template(Path(__file__).with_name("haproxy.cfg.j2"), escape)

    def check_version(self) -> None:
        """Check that it is not too old, and was built with TLS.

        Raises
        ------
        DataServerError
            It is, or was not.
        """
        said = self.place.output_of([self.binary, "-vv"])
        self.version_in(said, r"HA-?Proxy version (\d+\.\d+)", OLDEST)
        if "USE_OPENSSL=1" not in said and "+OPENSSL" not in said:
            raise self.lacks("was built without OpenSSL")

    def configuration(self, plan: Plan, folder: str) -> bytes:
        """Return the configuration."""
        # each address once at least, and the only one twice; all together within the limit
        tries = max(2, *(len(channel.addresses) for channel in plan.channels))
        return self._template.render(
            plan=plan,
            connections=connection_limit(len(plan.channels)),
            threads=self.workers,
            control=FIRST_DESCRIPTOR + len(plan.channels),
            ciphersuites=CIPHERSUITES,
            buffer_bytes=BUFFER_BYTES,
            mark=MARK,
            retries=tries - 1,
            connect_s=max(CONNECT_LIMIT_S // tries, SHORTEST_CONNECT_S),
            handshake_s=CONNECT_LIMIT_S,
            no_limit_s=NO_LIMIT_S,
            own=f"{folder}/{OWN}",
            peer=f"{folder}/{PEER}",
        )

    def check_command(self, path: Path, file: str) -> list[str]:
        """Return HAProxy's own check."""
        del path
        return [self.binary, "-c", "-f", file]

    def command(self, path: Path, file: str) -> list[str]:
        """Return the command that runs it in the foreground."""
        del path
        return [self.binary, "-db", "-f", file]

    @staticmethod
    def worth_saying(line: str) -> str:
        """Return the line without what is the same in all; what it always says is not worth it."""
        level, _, words = line.partition(" : ")
        return "" if level.startswith("[NOTICE]") else (words or level).strip()

    def instance(self, plan: Plan) -> Instance:
        """Return what a process will be."""
        return HaproxyInstance(plan)


class HaproxyInstance(Instance):
    """One haproxy."""

    reloads: ClassVar[bool] = False

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._control, theirs = socket.socketpair()
        self.descriptors = [theirs.detach()]
        self._names = {channel.name: index for index, channel in enumerate(plan.channels)}
        self._failed = [0] * len(plan.channels)
        self._unforwarded = [0] * len(plan.channels)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asking = asyncio.Lock()
        self._finishing: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Return when it answers: it accepts then."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 26)
        self._streams = reader, writer
        await self._ask("prompt")
        await self._ask(f"set timeout cli {NO_LIMIT_S}")

    async def _ask(self, command: str) -> str:
        """Return what it answers.

        Raises
        ------
        DataServerError
            It has ended.
        """
        if self._streams is None:
            raise DataServerError("haproxy is not ready")
        reader, writer = self._streams
        async with self._asking:
            try:
                writer.write(f"{command}\n".encode())
                await writer.drain()
                answer = await reader.readuntil(_PROMPT)
            except (OSError, asyncio.IncompleteReadError) as error:
                raise DataServerError("haproxy has closed its statistics socket") from error
        return answer.removesuffix(_PROMPT).decode("utf-8", "replace")

    async def finish(self) -> None:
        """Tell it to accept no more, and return when it does not."""
        self.running.signal(signal.SIGUSR1)
        while not is_stopping(await self._ask(STATE_COMMAND)):
            pass
        self._finishing = asyncio.ensure_future(self._let_go())

    async def _let_go(self) -> None:
        """Close the statistics socket after the last connection: then it ends."""
        while any(figures[0] for figures in await self.figures()):  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(FINISHED_POLL_S)
        self._close_streams()

    def on_line(self, line: str) -> str:
        """Count a connection that has failed; return other lines."""
        if not line.startswith(MARK):
            return Haproxy.worth_saying(line)
        failure = read_failure(line.removeprefix(MARK))
        if failure is None:
            return ""
        index = self._names[failure.name]
        self._failed[index] += 1
        self._unforwarded[index] += failure.unforwarded_bytes
        return f"{failure.name}: connection refused: {failure.reason}"

    async def read_figures(self) -> Figures:
        """Return what it has carried; connections that are open count up to five seconds ago."""
        try:
            answer = await self._ask(FIGURES_COMMAND)
        except DataServerError:
            if self._streams is None:  # it is starting or has finished: what it has carried does not change
                return self.last
            raise
        figures = read_figures(answer, self._names)
        failures = zip(self._failed, self._unforwarded, strict=True)
        return [
            [open_, total, failed, to_target - unforwarded, from_target]
            for (open_, total, to_target, from_target), (failed, unforwarded) in zip(
                figures, failures, strict=True
            )
        ]

    def _close_streams(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def close(self) -> None:
        """Close the statistics socket."""
        super().close()
        if self._finishing is not None:
            self._finishing.cancel()
        self._close_streams()
        self._control.close()
