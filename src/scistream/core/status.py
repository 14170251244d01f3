"""What can be seen of a session from outside: its state, its addresses, what it has carried."""

from __future__ import annotations

from dataclasses import dataclass

from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import State


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatistics:
    """What one channel has carried since the session began.

    Parameters
    ----------
    connections_open, connections_total, connections_failed : int
        Connections being forwarded now; accepted so far; of those, ended without being forwarded (target
        unreachable, TLS refused).
    bytes_to_target, bytes_from_target : int
        Application bytes forwarded from the accepted connections to the target, and back.
    connections_ready : int
        Of a reverse session: connections between the gateways that wait for an application's, now.
    """

    connections_open: int = 0
    connections_total: int = 0
    connections_failed: int = 0
    bytes_to_target: int = 0
    bytes_from_target: int = 0
    connections_ready: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """One side of a session, as its control server sees it.

    Parameters
    ----------
    reason : str
        Why it ended; empty while it lives.
    principal : str
        Whose it is.
    encrypted : bool
        Whether the leg between the gateways is TLS.
    data_server : str
        Kind of the data server.
    seconds : float
        Since the request came; of an ended session, until its end.
    channels : tuple of ChannelStatistics
        One entry per channel; empty while no data server runs.
    restarts : int
        How often its data server was restarted.
    notice : str
        Why it was restarted last; empty if it was not.
    idle_timeout_s, lifetime_s : float
        Its leases; 0 where there is none.
    lifetime_left_s : float or None
        What is left of its lifetime; None where that does not end, or has not begun.
    reverse : bool
        Whether the producer's side dials the consumer's.
    paced : bool
        Whether the data server holds its connections to `rate_mbps`.
    """

    uid: str
    role: Role
    state: State
    reason: str = ""
    num_conn: int
    rate_mbps: float
    listeners: tuple[Endpoint, ...] = ()
    targets: tuple[Endpoint, ...] = ()
    principal: str = ""
    encrypted: bool = False
    data_server: str = ""
    seconds: float = 0
    channels: tuple[ChannelStatistics, ...] = ()
    restarts: int = 0
    notice: str = ""
    idle_timeout_s: float = 0
    lifetime_s: float = 0
    lifetime_left_s: float | None = None
    reverse: bool = False
    paced: bool = False

    @property
    def bytes_forwarded(self) -> int:
        """Application bytes, of all channels and both directions."""
        return sum(channel.bytes_to_target + channel.bytes_from_target for channel in self.channels)
