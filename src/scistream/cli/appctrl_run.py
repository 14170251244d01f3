"""The command ``appctrl run``: one side of a session for as long as an application runs.

A producer's command is started first and announced once it listens: an address that nobody listens at is
never promised. A consumer's command is started once the session is connected: it can connect at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scistream.cli import options, templates
from scistream.cli.facilities import find_facility
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import State
from scistream.errors import (
    ConfigurationError,
    DeadlineExceeded,
    ResourceExhausted,
    SciStreamError,
    SessionNotFound,
    WrongState,
)

if TYPE_CHECKING:
    from scistream.cli.child import Child, ReceivedSignals
    from scistream.cli.listening import Place
    from scistream.client.aio import ControlClient, Facility

logger = logging.getLogger(__name__)

_FILE = click.Path(dir_okay=False, path_type=Path)
_PROFILES = ("facilities",)
_TOKEN_VARIABLES = ("APPCTRL_TOKEN", "S2UC_TOKEN")
_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 1.0
_RELEASE_TIMEOUT_S = 15.0


@click.command()
@click.argument("uid")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--role",
    type=click.Choice([one.value for one in Role]),
    required=True,
    help="PROD: the command listens; CONS: it connects.",
)
@click.option("--address", "addresses", multiple=True, help="HOST:PORT where it listens; repeatable.")
@click.option(
    "--port", "ports", type=click.IntRange(1, 65535), multiple=True, help="The same at --host; repeatable."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="This host, as its gateway reaches it.")
@click.option(
    "--s2cs", "server", default="localhost:5000", show_default=True, help="Control server or profile."
)
@click.option("--certificate", "--server-cert", type=_FILE, help="The control server's certificate.")
@click.option("--token-file", type=_FILE, help="File with the token [or: APPCTRL_TOKEN].")
@click.option(
    "--timeout-s",
    type=float,
    default=180.0,
    show_default=True,
    help="Wait this long for the session: PROD until it is requested, CONS until it is connected.",
)
@click.option(
    "--listen-timeout-s",
    type=float,
    default=30.0,
    show_default=True,
    help="Wait this long until the command listens.",
)
@click.option(
    "--grace-s",
    type=float,
    default=10.0,
    show_default=True,
    help="Kill the command this long after a signal that it does not heed.",
)
@click.option("--keep", is_flag=True, help="Do not release the session when the command ends.")
@options.json_option(
    "Print events as JSON lines on stderr, stdout being the command's: listening, registered, connected, "
    "started, done, error."
)
@options.config_option(tables=_PROFILES)
@options.verbose_option()
@click.pass_context
def run(
    context: click.Context,
    uid: str,
    command: tuple[str, ...],
    role: str,
    addresses: tuple[str, ...],
    ports: tuple[int, ...],
    host: str,
    server: str,
    certificate: Path | None,
    token_file: Path | None,
    timeout_s: float,
    listen_timeout_s: float,
    grace_s: float,
    keep: bool,
    as_json: bool,
) -> int:
    """Run COMMAND as the application of session UID, and release the session when it ends.

    PROD: the command is started, and announced to the gateway once it listens. CONS: it is started once the
    session is connected. SIGINT, SIGTERM and SIGHUP are passed on to it.

    \b
    In the arguments these words are replaced ({{ and }} are braces):
      {uid}  {role}  {host}  {port}                   of the first address or listener
      {listener}  {listeners}  {listener0} …          CONS: HOST:PORT to connect to
      {address}   {addresses}  {address0}  …          PROD: HOST:PORT to listen at

    The environment has the same: SCISTREAM_UID, SCISTREAM_ROLE, SCISTREAM_LISTENERS (with commas),
    SCISTREAM_LISTENER_HOST, SCISTREAM_LISTENER_PORT, SCISTREAM_LISTENER_0, …; PROD: ADDRESS for LISTENER.
    The token is not passed on.

    \b
    Example, at the two facilities:
      appctrl run 0f3c… --role PROD --port 5201 --host 10.0.1.5 --s2cs aps -- iperf3 -s -p {port}
      appctrl run 0f3c… --role CONS --s2cs alcf -- iperf3 -c {host} -p {port}

    The exit code is the command's; 128 + the signal's number if one has ended it. Where the command cannot be
    started, or the session is not there, it is one of this program's own.
    """
    wanted = [Endpoint.parse(address) for address in addresses] + [Endpoint(host, port) for port in ports]
    _check(Role(role), wanted, command)
    facility = find_facility(
        context,
        server,
        certificate=certificate,
        token_file=token_file,
        token_variables=_TOKEN_VARIABLES,
    )
    job = _Job(
        facility=facility,
        uid=uid,
        role=Role(role),
        addresses=tuple(wanted),
        command=command,
        timeout_s=timeout_s,
        listen_timeout_s=listen_timeout_s,
        grace_s=grace_s,
        keep=keep,
        as_json=as_json,
    )
    try:
        code = asyncio.run(job.run())
    except SciStreamError as error:
        from scistream.cli.exit_codes import exit_code_of

        job.emit("error", message=str(error), exit_code=int(exit_code_of(error)))
        raise
    job.emit("done", exit_code=code)
    return code


def _check(role: Role, addresses: list[Endpoint], command: tuple[str, ...]) -> None:
    """Refuse what could not work, before anything is started or announced."""
    if role is Role.PRODUCER and not addresses:
        raise click.UsageError("--role PROD needs --address or --port: where the command listens")
    if role is Role.CONSUMER and addresses:
        raise click.UsageError("--role CONS takes no --address or --port: the command connects")
    templates.check_names(command, role)
    if "{" not in command[0] and shutil.which(command[0]) is None:
        raise ConfigurationError(f"the command {command[0]!r} cannot be started: there is no such program")


@dataclass(kw_only=True)
class _Job:
    """One run of a command."""

    facility: Facility
    uid: str
    role: Role
    addresses: tuple[Endpoint, ...]
    command: tuple[str, ...]
    timeout_s: float
    listen_timeout_s: float
    grace_s: float
    keep: bool
    as_json: bool
    is_ours: bool = False
    """Whether the session may have us for its application: only then is it released."""

    async def run(self) -> int:
        """Return the command's exit code.

        Raises
        ------
        StoppedBySignal
            A signal came before there was a command to pass it on to.
        SciStreamError
            The session or the command could not be had.
        """
        from scistream.cli.child import ReceivedSignals

        with ReceivedSignals() as signals:
            try:
                if self.role is Role.PRODUCER:
                    code = await self._produce(signals)
                else:
                    code = await self._consume(signals)
            except BaseException:
                try:
                    await self._release()
                except SciStreamError as error:
                    logger.warning("session %s was not released: %s", self.uid, error)
                raise
            try:
                await self._release()
            except SciStreamError as error:
                if code == 0:
                    raise
                logger.warning("session %s was not released: %s", self.uid, error)
            return code

    def emit(self, event: str, /, **fields: object) -> None:
        """Print an event, if events are wanted."""
        if self.as_json:
            click.echo(json.dumps({"event": event, "uid": self.uid, **fields}), err=True)

    # --- the two sides -------------------------------------------------------------------------------------

    async def _produce(self, signals: ReceivedSignals) -> int:
        from scistream.cli.listening import Place

        places = [await Place.find(address) for address in self.addresses]
        for place in places:
            if place.is_here and await place.is_listening():
                raise ResourceExhausted(
                    f"a program listens at {place.endpoint} already; end it, or announce that one with "
                    "'appctrl hello'"
                )
        child = await self._start(self.addresses)
        ending = asyncio.ensure_future(child.finish(signals, self.grace_s))
        announcing = asyncio.ensure_future(self._announce(places))
        try:
            await asyncio.wait({ending, announcing}, return_when=asyncio.FIRST_COMPLETED)
            if announcing.done():
                announcing.result()
            elif ending.result() == 0:
                raise WrongState(f"the command ended before session {self.uid} had been requested")
            return await ending
        finally:
            for task in (announcing, ending):  # an ending that is cancelled ends the command
                task.cancel()
            await asyncio.gather(announcing, ending, return_exceptions=True)

    async def _announce(self, places: list[Place]) -> None:
        await asyncio.gather(*(place.wait(self.listen_timeout_s) for place in places))
        self.emit("listening", addresses=list(map(str, self.addresses)))
        await self._register()

    async def _consume(self, signals: ReceivedSignals) -> int:
        async def connected() -> tuple[Endpoint, ...]:
            deadline_s = time.monotonic() + self.timeout_s
            listeners = await self._register()
            async with self.facility.connect() as client:
                await self._wait_until_connected(client, deadline_s)
            return listeners

        child = await self._start(await signals.unless_received(connected()))
        return await child.finish(signals, self.grace_s)

    # --- the session ---------------------------------------------------------------------------------------

    async def _register(self) -> tuple[Endpoint, ...]:
        from scistream.client.aio import register

        try:
            listeners = await register(
                self.facility, self.uid, self.role, self.addresses, timeout_s=self.timeout_s
            )
        except asyncio.CancelledError:
            self.is_ours = True  # the gateway may have taken it
            raise
        self.is_ours = True
        if self.role is Role.CONSUMER and not listeners:
            raise WrongState(f"session {self.uid} at {self.facility.endpoint} has no listener to connect to")
        self.emit("registered", listeners=list(map(str, listeners)))
        return listeners

    async def _wait_until_connected(self, client: ControlClient, deadline_s: float) -> None:
        from scistream.client.aio import CallUnknown

        delay_s = _FIRST_DELAY_S
        while True:
            try:
                found = await client.status(self.uid)
            except CallUnknown as error:  # the reference implementation's
                logger.warning("session %s: starting without knowing if it is connected: %s", self.uid, error)
                return
            if not found:
                raise SessionNotFound(f"session {self.uid} has gone from {self.facility.endpoint}")
            if found[0].state is State.CONNECTED:
                self.emit("connected")
                return
            if found[0].state.ended:
                raise WrongState(
                    f"session {self.uid} has ended before it was connected: it is {found[0].state}"
                    f"{': ' if found[0].reason else ''}{found[0].reason}"
                )
            if time.monotonic() + delay_s > deadline_s:
                raise DeadlineExceeded(
                    f"session {self.uid} was not connected within {self.timeout_s:g} s, it is "
                    f"{found[0].state}; has the producer's application been announced, at the other facility?"
                )
            await asyncio.sleep(delay_s)
            delay_s = min(1.5 * delay_s, _LONGEST_DELAY_S)

    async def _release(self) -> None:
        if self.keep or not self.is_ours:
            return
        async with self.facility.connect() as client:
            await client.release(self.uid, timeout_s=_RELEASE_TIMEOUT_S)
        logger.info("session %s is released", self.uid)

    # --- the command ---------------------------------------------------------------------------------------

    async def _start(self, endpoints: tuple[Endpoint, ...]) -> Child:
        from scistream.cli.child import Child

        values = templates.values(self.uid, self.role, endpoints)
        inherited = {name: value for name, value in os.environ.items() if name not in _TOKEN_VARIABLES}
        child = await Child.start(
            templates.fill(self.command, values), inherited | templates.environment(values)
        )
        self.emit("started", pid=child.pid)
        return child
