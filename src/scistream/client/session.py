"""Sessions for programs without an event loop: the functions and the session of `scistream.client.aio`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from scistream.client import aio
from scistream.client.access import Access
from scistream.client.background import run
from scistream.client.control import ControlClient
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.wire.answers import Grant


class StreamingSession:
    """A session that is open at both facilities; a context manager that releases it.

    Made by `open_session`.

    Parameters
    ----------
    session : scistream.client.aio.StreamingSession
        What does the work.
    """

    def __init__(self, session: aio.StreamingSession) -> None:
        self._session = session

    @property
    def uid(self) -> str:
        """Its name at both control servers."""
        return self._session.uid

    @property
    def listeners(self) -> tuple[Endpoint, ...]:
        """Where the consumer application connects, at the consumer's gateway; one per channel."""
        return self._session.listeners

    @property
    def encrypted(self) -> bool:
        """Whether the leg between the gateways is TLS 1.3, each side proving its session key."""
        return self._session.encrypted

    @property
    def setup_s(self) -> float:
        """How long opening it took."""
        return self._session.setup_s

    def status(self) -> aio.BothSides:
        """Return what both control servers show of the session.

        Raises
        ------
        SciStreamError
            One of them does not answer, or does not know the session any more.
        """
        return run(self._session.status())

    def retarget(self, targets: Sequence[Endpoint]) -> None:
        """Lead new connections to the producer's application at `targets`; old ones finish as they are.

        Raises
        ------
        InvalidArgument
            A target is none, or there is none.
        SciStreamError
            The producer's control server cannot be reached, or refuses it. The session goes on as it was;
            only if it has ended there, the other side has been released too.
        """
        run(self._session.retarget(targets))

    def renew(self) -> None:
        """Start the session's idle timeout and lifetime anew on both sides.

        Raises
        ------
        SciStreamError
            A side could not, or is of a version that cannot; the session goes on as long as its leases say.
        """
        run(self._session.renew())

    def wait(self, *, interval_s: float = 1.0, patience_s: float = 60.0) -> aio.SessionEnd:
        """Return when either side has ended, and why; the other side has been released then.

        Parameters and errors are those of `scistream.client.aio.StreamingSession.wait`.
        """
        return run(self._session.wait(interval_s=interval_s, patience_s=patience_s))

    def release(self) -> None:
        """End the session on both sides; return when everything is free. Idempotent.

        Raises
        ------
        SciStreamError
            A side did not confirm; the other one was released all the same. Calling it again tries again.
        """
        run(self._session.release())

    def detach(self) -> None:
        """Leave the session open and close our connections to the control servers."""
        run(self._session.detach())

    def __enter__(self) -> StreamingSession:
        """Return the session itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release it; an error of the block is more important than one of the release."""
        run(self._session.__aexit__(kind, error, traceback))


def open_session(
    producer: Access | ControlClient,
    consumer: Access | ControlClient,
    *,
    targets: Sequence[Endpoint],
    num_conn: int | None = None,
    rate_mbps: int = 0,
    reverse: bool = False,
    queue: bool = False,
    idle_timeout_s: float | None = None,
    lifetime_s: float | None = None,
    timeout_s: float | None = None,
    encrypted: bool = True,
    uid: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> StreamingSession:
    """Open a session through two facilities' gateways, and return it when both data servers forward.

    Parameters and errors are those of `scistream.client.aio.open_session`; `progress` is called in another
    thread. Ctrl-C while it opens leaves nothing of it behind on either side.

    Examples
    --------
    >>> with open_session(aps, alcf, targets=[Endpoint("10.0.1.5", 5001)]) as session:  # doctest: +SKIP
    ...     print("connect the consumer application to", *session.listeners)
    """
    opened: list[aio.StreamingSession] = []

    async def work() -> None:
        opened.append(
            await aio.open_session(
                _asynchronous(producer),
                _asynchronous(consumer),
                targets=targets,
                num_conn=num_conn,
                rate_mbps=rate_mbps,
                reverse=reverse,
                queue=queue,
                idle_timeout_s=idle_timeout_s,
                lifetime_s=lifetime_s,
                timeout_s=timeout_s,
                encrypted=encrypted,
                uid=uid,
                progress=progress,
            )
        )

    try:
        run(work())
        return StreamingSession(opened[0])
    except BaseException:
        # interrupted when it was open already, and nobody has it
        if opened:
            run(opened[0].abandon())
        raise


def reserve_side(
    client: ControlClient,
    uid: str,
    role: Role,
    *,
    addresses: Sequence[Endpoint] = (),
    num_conn: int = 1,
    rate_mbps: int = 0,
    reverse: bool = False,
    queue: bool = False,
    idle_timeout_s: float | None = None,
    lifetime_s: float | None = None,
    timeout_s: float = 30,
) -> Grant:
    """Open one side of a session and say hello for its application: all but the connection.

    Raises
    ------
    SciStreamError
        Whatever the control server refuses it with. What was reserved is freed by the server.
    """
    return run(
        aio.reserve_side(
            client.asynchronous,
            uid,
            role,
            addresses=addresses,
            num_conn=num_conn,
            rate_mbps=rate_mbps,
            reverse=reverse,
            queue=queue,
            idle_timeout_s=idle_timeout_s,
            lifetime_s=lifetime_s,
            timeout_s=timeout_s,
        )
    )


def register(
    facility: Access,
    uid: str,
    role: Role,
    addresses: Sequence[Endpoint] = (),
    *,
    timeout_s: float = 180,
) -> tuple[Endpoint, ...]:
    """Say hello for the application of session `uid`; return the listeners of this side's data server.

    Parameters and errors are those of `scistream.client.aio.register`.
    """
    return run(aio.register(facility, uid, role, addresses, timeout_s=timeout_s))


def _asynchronous(gateway: Access | ControlClient) -> Access | aio.ControlClient:
    return gateway.asynchronous if isinstance(gateway, ControlClient) else gateway
