"""What programs differ in: how one is found, configured, started, told of a new target, and asked.

A `Program` is there once per tree of processes. An `Instance` is one running process of it, which forwards
one session; one that cannot read a changed configuration again is followed by another instance, and finishes
its connections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from scistream.dataserver.programs.credentials import check_credentials
from scistream.dataserver.programs.find import Version, version_in
from scistream.dataserver.programs.place import ENVIRONMENT, Place
from scistream.dataserver.programs.plan import Plan
from scistream.dataserver.programs.running import RunningProgram
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)

CIPHERSUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""The fastest first, where the processor has AES instructions."""
CONNECT_LIMIT_S = 10
"""How long a target may take to answer, and a peer to prove itself."""
NO_LIMIT_S = 24 * 24 * 3600
"""The longest time that all three programs can count: an idle connection stays."""
KEEPALIVE_IDLE_S = 60

ANSWER_LIMIT_S = 4.0
"""How long a program may take to say what it has carried."""

DESCRIPTORS_PER_CONNECTION = 3
"""Two sockets; and some of the connections have pipes."""
DESCRIPTORS_IN_RESERVE = 100

Figures = list[list[int]]
"""Per channel, in the order of `ChannelStatistics`."""


class Program(ABC):
    """One kind of program.

    Parameters
    ----------
    settings : mapping
        Those of its backend.
    place : Place
        Where it runs.
    """

    name: ClassVar[str]
    """Of the program's file."""
    package: ClassVar[str]
    """By which systems with apt install it."""

    def __init__(self, settings: Mapping[str, Any], place: Place) -> None:
        self.workers = int(settings["workers"])
        self.place = place
        self.binary = ""

    def find(self) -> None:
        """Find the program's file and check its version.

        Raises
        ------
        DataServerError
            It is missing or too old; the message says what to install.
        """
        self.binary = self.place.find(self.name, self.package)
        self.check_version()

    @abstractmethod
    def check_version(self) -> None:
        """Check that `binary` can do what is needed.

        Raises
        ------
        DataServerError
            It cannot.
        """

    def lacks(self, what: str, package: str = "") -> DataServerError:
        """Return the error that this program is no use, as it is `what`."""
        return DataServerError(
            f"{self.place.called(self.binary)} {what}: {self.place.remedy(package or self.package)}, or use "
            "the native data server"
        )

    def version_in(self, said: str, pattern: str, oldest: Version) -> Version:
        """Return the version that `pattern` finds in what the program says of itself.

        Raises
        ------
        DataServerError
            There is none, or it is too old.
        """
        version = version_in(said, pattern)
        if version is None:
            raise DataServerError(
                f"{self.place.called(self.binary)} does not say its version, but: {said[:200]!r}"
            )
        if version < oldest:
            raise self.lacks(
                f"is version {'.'.join(map(str, version))}; at least {'.'.join(map(str, oldest))} is needed"
            )
        logger.info(
            "data server %s %s: %s",
            self.name,
            ".".join(map(str, version)),
            self.place.called(self.binary),
        )
        return version

    def check_plan(self, plan: Plan) -> None:
        """Check that this program can forward the session.

        Raises
        ------
        DataServerError
            It cannot; the message says what can.
        """
        if plan.rate_mbps > 0:
            raise DataServerError(
                f"{self.name} cannot hold a session to {plan.rate_mbps:g} Mb/s; leave --pace out, or use the "
                "native data server"
            )
        if plan.tls is not None:
            check_credentials(plan.tls)

    @abstractmethod
    def configuration(self, plan: Plan, folder: str) -> bytes:
        """Return the configuration; the session's credentials will lie in `folder`, beside its file.

        Raises
        ------
        DataServerError
            A value cannot stand in a configuration.
        """

    @abstractmethod
    def check_command(self, path: Path, file: str) -> list[str]:
        """Return the command that checks the configuration `file` in the folder `path`; empty if none can."""

    @abstractmethod
    def command(self, path: Path, file: str) -> list[str]:
        """Return the command that runs the program with the configuration `file` in its folder `path`."""

    def environment(self, pid: int, plan: Plan) -> dict[str, str]:
        """Return the environment of process `pid`, from which no program needs anything of ours."""
        del pid, plan
        return dict(ENVIRONMENT)

    @staticmethod
    def worth_saying(line: str) -> str:
        """Return what of a line that it has written is worth a line in the log, if anything is."""
        return line.strip()

    @abstractmethod
    def instance(self, plan: Plan) -> Instance:
        """Return what a process that is about to be started will be."""


class Instance(ABC):
    """One process of the program, with one session.

    Attributes
    ----------
    plan : Plan
        What it forwards now.
    addresses : list of set of Endpoint
        Per channel, what it has dialled ever.
    process : RunningProgram
        Once it has been started.
    descriptors : list of int
        What the process gets besides the listening sockets; closed here once it has them.
    last : list of list of int
        What `figures` returned last; cumulative ones never go down.
    """

    reloads: ClassVar[bool]
    """Whether it reads a changed configuration again; if not, another instance follows and it finishes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.addresses = [set(channel.addresses) for channel in plan.channels]
        self.process: RunningProgram | None = None
        self.descriptors: list[int] = []
        self.last: Figures = [[0] * 5 for _ in plan.channels]

    @property
    def running(self) -> RunningProgram:
        """The process.

        Raises
        ------
        DataServerError
            There is none.
        """
        if self.process is None or self.process.ended.done():
            raise DataServerError("the program has ended")
        return self.process

    def retargeted(self, plan: Plan) -> None:
        """Take note that it has another plan; connections to the addresses before may go on."""
        self.plan = plan
        for known, channel in zip(self.addresses, plan.channels, strict=True):
            known.update(channel.addresses)

    @property
    def has_ended(self) -> bool:
        """Whether it has been started and has ended."""
        return self.process is not None and self.process.ended.done()

    def started(self) -> None:
        """Take note that the process has its descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    @abstractmethod
    async def ready(self) -> None:
        """Return once it forwards."""

    async def reload(self, plan: Plan) -> None:
        """Return once new connections are forwarded by the configuration as it is now."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Return once it accepts no more; it ends by itself after its last connection."""
        raise NotImplementedError

    @abstractmethod
    def on_line(self, line: str) -> str:
        """Take a line that it has written; return what of it is worth a line in the log, if anything is."""

    @abstractmethod
    async def read_figures(self) -> Figures:
        """Return what it has carried.

        Raises
        ------
        DataServerError
            It does not answer.
        """

    async def figures(self) -> Figures:
        """Return what it has carried, and keep it.

        Raises
        ------
        DataServerError
            It does not answer.
        """
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                now = await self.read_figures()
        except TimeoutError as error:
            raise DataServerError(f"the program does not answer within {ANSWER_LIMIT_S:g} s") from error
        self.last = [[new[0], *map(max, old[1:], new[1:])] for old, new in zip(self.last, now, strict=True)]
        return self.last

    def close(self) -> None:
        """Free what it has here. Idempotent."""
        self.started()


def connection_limit(channels: int) -> int:
    """Return how many connections a program can have with the descriptors that it may have."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max((descriptors - channels - DESCRIPTORS_IN_RESERVE) // DESCRIPTORS_PER_CONNECTION, 1)


def add(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> Figures:
    """Return the sum of two processes' figures."""
    return [[sum(pair) for pair in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]
