"""One control server for programs without an event loop: `scistream.client.aio.ControlClient`, waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from scistream.client import aio
from scistream.client.access import Access
from scistream.client.aio.control import connect
from scistream.client.background import run
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.status import SessionStatus
from scistream.wire.answers import Grant

_CALL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facility(Access):
    """One facility's control server, and what is needed to be let in.

    Parameters
    ----------
    endpoint, server_certificate_pem, token, tls, client_certificate
        As in `Access`.

    Examples
    --------
    >>> aps = Facility(
    ...     endpoint=Endpoint.parse("gateway.aps.example:5000"),
    ...     server_certificate_pem=Path("aps.crt").read_bytes(),
    ...     token=Path("aps.token").read_text().strip(),
    ... )  # doctest: +SKIP
    """

    def connect(self) -> ControlClient:
        """Return a client for this facility's control server, to be closed after use."""
        return ControlClient(connect(self))


class ControlClient:
    """Calls of one control server; a context manager. `Facility.connect` makes it.

    Every call raises `SciStreamError`, as those of `scistream.client.aio.ControlClient` do. It can be used
    from several threads.

    Parameters
    ----------
    client : scistream.client.aio.ControlClient
        What does the work.
    """

    def __init__(self, client: aio.ControlClient) -> None:
        self.asynchronous = client
        """The asynchronous client, which belongs to the background loop."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the control server serves."""
        return self.asynchronous.endpoint

    def request(
        self,
        uid: str,
        role: Role,
        *,
        num_conn: int = 1,
        rate_mbps: int = 0,
        reverse: bool = False,
        queue: bool = False,
        idle_timeout_s: float | None = None,
        lifetime_s: float | None = None,
        on_credential: Callable[[str], None] | None = None,
        timeout_s: float = 200,
    ) -> Grant:
        """Open one side of a session; the answer comes when the application has said hello.

        `on_credential` is called in the background loop.
        """
        return run(
            self.asynchronous.request(
                uid,
                role,
                num_conn=num_conn,
                rate_mbps=rate_mbps,
                reverse=reverse,
                queue=queue,
                idle_timeout_s=idle_timeout_s,
                lifetime_s=lifetime_s,
                on_credential=on_credential,
                timeout_s=timeout_s,
            )
        )

    def hello(
        self,
        uid: str,
        role: Role,
        addresses: Iterable[Endpoint] = (),
        *,
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> tuple[Endpoint, ...]:
        """Say for the application that it is there, and where; return the data server's listeners."""
        return run(self.asynchronous.hello(uid, role, addresses, timeout_s=timeout_s))

    def update(
        self,
        uid: str,
        role: Role,
        targets: Iterable[Endpoint] = (),
        *,
        peer_certificate_pem: bytes = b"",
        peer_data_server: str = "",
        reverse_listeners: Iterable[Endpoint] = (),
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> Grant:
        """Connect this side to `targets` (none: to what the application announced)."""
        return run(
            self.asynchronous.update(
                uid,
                role,
                targets,
                peer_certificate_pem=peer_certificate_pem,
                peer_data_server=peer_data_server,
                reverse_listeners=reverse_listeners,
                timeout_s=timeout_s,
            )
        )

    def release(self, uid: str, *, principal: str = "", timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """End this side of the session; return when everything is free. Fine if there is none.

        `principal` names whose it is, if it is not the caller's: that is for administrators.
        """
        run(self.asynchronous.release(uid, principal=principal, timeout_s=timeout_s))

    def renew(self, uid: str, *, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """Start the session's idle timeout and lifetime anew."""
        run(self.asynchronous.renew(uid, timeout_s=timeout_s))

    def status(self, uid: str = "", *, timeout_s: float = _CALL_TIMEOUT_S) -> tuple[SessionStatus, ...]:
        """Return what the server shows of the session `uid`, or of all of the caller's."""
        return run(self.asynchronous.status(uid, timeout_s=timeout_s))

    def status_and_notices(
        self, uid: str = "", *, everybody: bool = False, timeout_s: float = 10.0
    ) -> tuple[tuple[SessionStatus, ...], tuple[str, ...]]:
        """Return the caller's sessions, or `everybody`'s (for administrators); and notices of the gateway."""
        return run(self.asynchronous.status_and_notices(uid, everybody=everybody, timeout_s=timeout_s))

    def close(self) -> None:
        """Close the connection. Idempotent."""
        run(self.asynchronous.close())

    def __enter__(self) -> ControlClient:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()
