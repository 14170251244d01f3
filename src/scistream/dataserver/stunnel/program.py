"""stunnel: its configuration, and one process of it.

It finds its listening sockets as a service that systemd starts does: ``LISTEN_FDS`` and ``LISTEN_PID``, the
descriptors in the order of its services (sd_listen_fds(3)). SIGHUP makes it read its configuration again;
connections that are open go on. Those that have ended are known from its log, those that are open from the
kernel. It has no check of its own: what is wrong is in its first lines.

A stream whose two directions end at nearly the same time may lose what stunnel has not read yet (seen with
5.68).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Collection
from pathlib import Path

from scistream.dataserver.programs.credentials import OWN, PEER
from scistream.dataserver.programs.logged import LoggedInstance
from scistream.dataserver.programs.plan import Plan
from scistream.dataserver.programs.program import (
    CIPHERSUITES,
    CONNECT_LIMIT_S,
    NO_LIMIT_S,
    Instance,
    Program,
)
from scistream.dataserver.programs.render import Template, refuse_control_characters
from scistream.dataserver.stunnel.log import ConnectionLog, split
from scistream.errors import DataServerError

OLDEST = (5, 60)

_NOT_READ = "Failed to reload the configuration file"


def escape(text: str) -> str:
    """Return `text`, which ends with its line: stunnel knows no quotes and needs none.

    Raises
    ------
    DataServerError
        It holds control characters, or is not the same without spaces around it.
    """
    refuse_control_characters(text)
    if text != text.strip():
        raise DataServerError(f"{text!r} cannot stand in stunnel's configuration, because of its spaces")
    return text


class Stunnel(Program):
    """The program stunnel."""

    name = "stunnel"
    package = "stunnel4"
    _template = Template(Path(__file__).with_name("stunnel.conf.j2"), escape)

    def check_version(self) -> None:
        """Check that it is not too old, and takes listening sockets.

        Raises
        ------
        DataServerError
            It is, or does not.
        """
        said = self.place.output_of([self.binary, "-version"])
        self.version_in(said, r"stunnel (\d+\.\d+)", OLDEST)
        if "SYSTEMD" not in said:
            raise self.lacks("was built without systemd")

    def check_plan(self, plan: Plan) -> None:
        """Check that the session is encrypted.

        Raises
        ------
        DataServerError
            It is not, or cannot be forwarded for other reasons.
        """
        super().check_plan(plan)
        if plan.tls is None:
            raise DataServerError(
                "stunnel cannot forward a session that is not encrypted; let s2cs require encryption "
                "(--encryption required), or use another data server"
            )

    def configuration(self, plan: Plan, folder: str) -> bytes:
        """Return the configuration."""
        tries = max(len(channel.addresses) for channel in plan.channels)
        return self._template.render(
            plan=plan,
            client="yes" if plan.dials_tls else "no",
            own=f"{folder}/{OWN}",
            peer=f"{folder}/{PEER}",
            ciphersuites=CIPHERSUITES,
            connect_s=max(CONNECT_LIMIT_S // tries, 1),
            handshake_s=CONNECT_LIMIT_S,
            no_limit_s=NO_LIMIT_S,
        )

    def check_command(self, path: Path, file: str) -> list[str]:
        """Return nothing: stunnel has no check."""
        del path, file
        return []

    def command(self, path: Path, file: str) -> list[str]:
        """Return the command that runs it in the foreground."""
        del path
        return [self.binary, file]

    def environment(self, pid: int, plan: Plan) -> dict[str, str]:
        """Return the environment, with what says that it has listening sockets."""
        sockets = {"LISTEN_PID": str(pid), "LISTEN_FDS": str(len(plan.channels))}
        return {**super().environment(pid, plan), **sockets}

    def instance(self, plan: Plan) -> Instance:
        """Return what a process will be."""
        return StunnelInstance(plan)


class StunnelInstance(LoggedInstance):
    """One stunnel."""

    def __init__(self, plan: Plan) -> None:
        names = {channel.name: index for index, channel in enumerate(plan.channels)}
        self._log = ConnectionLog(names, accepts_tls=plan.accepts_tls)
        super().__init__(plan, self._log.ended, self._log.closing)
        self._bound = 0
        self._read = asyncio.Event()
        self._refused = False

    async def ready(self) -> None:
        """Return when it has read its configuration and has taken the listening sockets."""
        await self._read.wait()

    async def reload(self, plan: Plan) -> None:
        """Return when it has read its configuration again.

        Raises
        ------
        DataServerError
            It refuses it, and goes on with the one before.
        """
        self._read.clear()
        self._bound, self._refused = 0, False
        self.running.signal(signal.SIGHUP)
        await self._read.wait()
        if self._refused:
            raise DataServerError("stunnel refuses its configuration")
        self.retargeted(plan)

    def on_line(self, line: str) -> str:
        """Count connections; note that the configuration was read."""
        words = split(line)[2]
        if words == _NOT_READ:
            self._refused = True
            self._read.set()
        elif " bound to " in words:
            self._bound += 1
            if self._bound >= len(self.plan.channels):
                self._read.set()
        worth_saying = self._log.read(line)
        if self._log.failed is not None:
            self.on_refused(self._log.failed)
        return worth_saying

    @property
    def pids(self) -> Collection[int]:
        """Itself."""
        return (self.running.pid,)
