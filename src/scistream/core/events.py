"""What can happen to a session: the callers' messages, the reports of the shell, and time.

Values only. `scistream.core.session` says what each does in which state; the shell (`scistream.control`)
makes them. A message's values are checked when it is built, whatever the state of its session.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from scistream.core.endpoint import Endpoint
from scistream.core.principal import Who
from scistream.errors import InvalidArgument

# The uid reaches log lines, certificates and, with other data servers, file names: nothing of it needs
# quoting anywhere. 36 characters are a UUID; 64 is what an X.509 common name holds.
_UID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

#: More addresses than this in one message are a mistake: a session never has so many channels.
MAX_ADDRESSES = 1024

# The name of a kind of data server, which is kept with the session.
_MAX_DATA_SERVER = 64

# int32 is what the wire carries.
_MAX_RATE_MBPS = 2**31 - 1


class Role(StrEnum):
    """Which side of the session this control server is."""

    PRODUCER = "PROD"
    """The side whose application listens."""
    CONSUMER = "CONS"
    """The side whose application connects."""


class Timer(StrEnum):
    """What a session can wait for, for a limited time only."""

    EARLY_HELLO = "early-hello"
    """A HELLO has come before its REQ."""
    HELLO = "hello"
    """Listeners are reserved; the application has not said hello."""
    UPDATE = "update"
    """The application is known; the user client has not said where to connect."""
    QUEUE = "queue"
    """The request queues for capacity and ports."""
    LIFETIME = "lifetime"
    """The session may be used, until its lease ends."""
    TERM = "term"
    """The gateway's policy lets the session live so long, whether it is renewed or not."""
    IDLE = "idle"
    """It is time to look whether anything was carried."""
    STEADY = "steady"
    """A data server that was restarted has to show that it stays."""


@dataclass(frozen=True, slots=True, order=True)
class SessionKey:
    """A session's name within its owner's: two owners can use one uid and never learn of each other.

    Parameters
    ----------
    owner : str
        Name of the principal that the session belongs to.
    uid : str
        1 to 64 letters, digits, ``_`` or ``-``, chosen by the user client.

    Raises
    ------
    InvalidArgument
        The uid has another form.
    """

    owner: str
    uid: str

    def __post_init__(self) -> None:
        if _UID.fullmatch(self.uid) is None:
            raise InvalidArgument(
                f"uid {self.uid[:80]!r} is not 1 to 64 letters, digits, '_' or '-'; use a random UUID"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happens to the session `key`."""

    key: SessionKey


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent(Event):
    """A message that somebody waits for the answer of.

    Parameters
    ----------
    call : int
        Number by which the reply finds who asked; never used twice.
    """

    call: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(CallEvent):
    """REQ: the user client asks for `num_conn` channels. Answered once the application has said hello.

    Parameters
    ----------
    rate_mbps : float
        Reserved of the gateway's capacity; 0 reserves nothing.
    reverse : bool
        Whether the producer's side dials the consumer's, because its gateway cannot be reached.
    queue : bool
        Whether to wait for capacity and ports where there are too few.
    idle_timeout_s, lifetime_s : float or None
        The session ends when nothing was carried for so long, and so long after the reservation. None: as
        the gateway has it; 0: never. The gateway's own limit, where it has one, is never exceeded.
    who : Who or None
        The owner, as an authenticator knows it; None where nobody has asked.
    credential_hash : str
        Of a credential that was made for the session's application; it finds the session
        (`SessionTable.with_credential`). Empty: none was made.
    term_s : float
        The session ends so long after the reservation by the gateway's policy, renewed or not; 0: never.

    Raises
    ------
    InvalidArgument
        `num_conn` is below 1, the rate negative or too large, or a lease is no number of seconds. The
        pool's size and the capacity are checked by the table.
    """

    role: Role
    num_conn: int
    rate_mbps: float = 0
    reverse: bool = False
    queue: bool = False
    idle_timeout_s: float | None = None
    lifetime_s: float | None = None
    who: Who | None = None
    credential_hash: str = ""
    term_s: float = 0

    def __post_init__(self) -> None:
        if self.num_conn < 1:
            raise InvalidArgument(f"session {self.key.uid}: num_conn is {self.num_conn}; ask for 1 or more")
        if not (math.isfinite(self.rate_mbps) and 0 <= self.rate_mbps <= _MAX_RATE_MBPS):
            raise InvalidArgument(
                f"session {self.key.uid}: rate is {self.rate_mbps} Mb/s; ask for 0 (no wish) or more"
            )
        for name, lease_s in (("idle timeout", self.idle_timeout_s), ("lifetime", self.lifetime_s)):
            if lease_s is not None and not (math.isfinite(lease_s) and lease_s >= 0):
                raise InvalidArgument(
                    f"session {self.key.uid}: {name} is {lease_s} s; ask for 0 (none) or more seconds"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(CallEvent):
    """HELLO: the application says where it listens (producer side), or that it is there (consumer side)."""

    role: Role
    addresses: tuple[Endpoint, ...] = ()

    def __post_init__(self) -> None:
        _check_addresses(self.key.uid, "hello", self.addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update(CallEvent):
    """UpdateTargets: where this side's data server connects, and whom it finds there.

    Parameters
    ----------
    role : Role or None
        None where the caller does not say.
    peer_certificate_pem : bytes
        Certificate that the other side's data server proves to hold; empty for plain TCP.
    peer_data_server : str
        Kind of the other side's data server; empty where the caller does not say.
    reverse_listeners : tuple of Endpoint
        Where the producer's side of a reverse session dials the consumer's, one per channel.

    Raises
    ------
    InvalidArgument
        An address is none, or the name is too long for any data server's.
    """

    role: Role | None
    targets: tuple[Endpoint, ...] = ()
    peer_certificate_pem: bytes = b""
    peer_data_server: str = ""
    reverse_listeners: tuple[Endpoint, ...] = ()

    def __post_init__(self) -> None:
        _check_addresses(self.key.uid, "update", self.targets)
        _check_addresses(self.key.uid, "update", self.reverse_listeners)
        if len(self.peer_data_server) > _MAX_DATA_SERVER:
            raise InvalidArgument(
                f"session {self.key.uid}: update names a data server by {len(self.peer_data_server)} "
                f"characters; {_MAX_DATA_SERVER} are the most"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(CallEvent):
    """REL: end the session, whatever it is doing.

    Parameters
    ----------
    shutdown : bool
        Nobody has asked for it: the control server itself ends.
    """

    shutdown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew(CallEvent):
    """The session is still wanted: its lifetime and its idle time begin anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAbandoned(CallEvent):
    """Whoever made the call has gone and hears no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphaned(Event):
    """Everybody who waited for the REQ's answer has gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted(Event):
    """The request is at its turn: capacity and ports are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenersBound(Event):
    """The shell holds listening sockets for all channels, and has made the session's key.

    Parameters
    ----------
    listeners, reverse_listeners : tuple of Endpoint
        As others reach them (advertised host and port): for applications or the other gateway; and where
        the consumer's side of a reverse session waits for the producer's.
    ports : tuple of int
        Where the sockets are bound, in the same order. It can be empty where the session chose them.
    certificate_pem : bytes
        The session's certificate; empty where this gateway does not encrypt.
    """

    listeners: tuple[Endpoint, ...]
    reverse_listeners: tuple[Endpoint, ...] = ()
    ports: tuple[int, ...] = ()
    certificate_pem: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortsTaken(Event):
    """Somebody outside holds these ports of ours; the shell has bound the others it was given."""

    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationFailed(Event):
    """No listeners can be had, or those of a session out of the journal cannot be had again."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataServerReady(Event):
    """The data server forwards to `targets`, as order number `generation` says."""

    generation: int
    targets: tuple[Endpoint, ...]
    peer_certificate_pem: bytes
    peer_data_server: str = ""
    reverse_listeners: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataServerFailed(Event):
    """The data server could not be started or found again; another try would not help."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetargetFailed(Event):
    """The data server could not be retargeted as order number `generation` says; it goes on as before."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataServerDied(Event):
    """The data server has ended by itself after it had been ready. Its listeners are still ours."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataServerRestarted(Event):
    """The data server has restarted itself on the same listeners; the connections it had are lost."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSeen(Event):
    """The answer to `LookForTraffic`.

    Parameters
    ----------
    total : int
        A figure that is another one once anything was carried: bytes and connections since the start. Where
        the data server does not answer, the last one known.
    """

    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired(Event):
    """The time set by `SetTimer` is over."""

    timer: Timer


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFreed(Event):
    """The shell has stopped the data server and closed the listeners: the ports can be used again."""


def _check_addresses(uid: str, message: str, addresses: tuple[Endpoint, ...]) -> None:
    if len(addresses) > MAX_ADDRESSES:
        raise InvalidArgument(
            f"session {uid}: {message} names {len(addresses)} addresses; {MAX_ADDRESSES} are the most"
        )
    for address in addresses:
        if address.port == 0:
            raise InvalidArgument(f"session {uid}: {message} names {address}: port 0 cannot be connected to")
