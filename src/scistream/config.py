"""What a control server is told by its operator, checked once and then passed around as a value.

Where the values come from (flags, environment, TOML file) is the command line's business.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from scistream.core.endpoint import Endpoint
from scistream.core.reservation import EphemeralPool, Pool, PortPool
from scistream.core.session import Encryption
from scistream.core.table import Limits
from scistream.errors import ConfigurationError, InvalidArgument

#: Channels at most where the operating system chooses the ports.
EPHEMERAL_CHANNELS = 10_000


class StopMode(StrEnum):
    """What the end of a control server means for its sessions."""

    RELEASE = "release"
    """End them all at once."""
    DRAIN = "drain"
    """Take no more; let streams finish for a limited time, then end what is left."""
    KEEP = "keep"
    """Let go of them: streams go on, and the next control server finds them again."""


class OnFailure(StrEnum):
    """What becomes of a call whose decision cannot be written down."""

    REFUSE = "refuse"
    """It is refused: nothing is done that nobody could find again."""
    GO_ON = "go-on"
    """It is served, and the log says that the audit has a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """How decisions are written.

    Parameters
    ----------
    path : Path
        The file.
    max_bytes : int
        It is rotated before it grows beyond.
    keep : int
        How many rotated files are kept.
    on_failure : OnFailure
        What happens when it cannot be written.
    """

    path: Path
    max_bytes: int = 10_000_000
    keep: int = 10
    on_failure: OnFailure = OnFailure.REFUSE


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRange:
    """The ports that data servers listen on: `first` to `last`, or any free ones where both are 0.

    Raises
    ------
    ConfigurationError
        The bounds are no range of ports.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if (self.first, self.last) != (0, 0) and not 1 <= self.first <= self.last <= 65535:
            raise ConfigurationError(
                f"port range {self.first}-{self.last} is none; write FIRST-LAST from 1 to 65535, "
                "or 0 for any free port"
            )

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """Read ``FIRST-LAST``, one port, or ``0``.

        Raises
        ------
        ConfigurationError
            The text has another form.
        """
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", text, re.ASCII)
        if match is None:
            raise ConfigurationError(f"port range {text!r} is none; write FIRST-LAST, such as 5100-5200")
        first = int(match[1])
        return cls(first=first, last=int(match[2]) if match[2] else first)

    @property
    def size(self) -> int:
        """How many ports there are; 0 where the operating system chooses them."""
        return self.last - self.first + 1 if self.first else 0

    def pool(self) -> Pool:
        """Return a pool of these ports, all free."""
        return PortPool(range(self.first, self.last + 1)) if self.first else EphemeralPool(EPHEMERAL_CHANNELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlServerConfig:
    """One control server.

    Parameters
    ----------
    listen : Endpoint
        Where it takes calls; port 0 is any free one.
    certificate, private_key : Path
        PEM files of its own TLS.
    bind_host : str
        Address that a producer's data listeners are bound to, where the other gateway connects.
    advertise_host : str
        Name or address by which the other gateway reaches them.
    bind_lan_host : str
        Address that a consumer's data listeners are bound to, where applications connect in the clear.
        Only this machine's own reach it unless the operator names another.
    advertise_lan_host : str or None
        Name or address by which the applications reach them; None: as they are bound.
    ports : PortRange
        For data listeners.
    data_server : str
        Kind of the data servers.
    data_server_settings : mapping
        How they work; the kind says which there are.
    authenticators : mapping of str to mapping of str to str
        Who asks is known by these, with their settings.
    encryption : Encryption
        What is asked of the leg between the gateways.
    limits : Limits
        How long sessions wait and last.
    drain_timeout_s : float
        How long the end of the server may take at most.
    state_dir : Path or None
        Where sessions are kept for the next control server; None: they end with this one.
    orphan_limit_s : float
        How long streams go on without any control server.
    on_terminate : StopMode
        What SIGTERM means for the sessions.
    capacity_mbps : float
        What all sessions together may reserve, in Mb/s; 0: without limit.
    pace : bool
        Whether data servers hold each session to the rate that it has reserved.
    advertised_ports : PortRange or None
        The listeners' ports as others reach them, one for each of `ports` in order; None: the same.
    tls : bool
        Whether the control port is TLS. Without it anybody on the way reads the users' tokens.
    policy : Path or None
        Who may do what; None: everybody whom an authenticator knows may open sessions to anywhere.
    audit : AuditSettings or None
        Where decisions are written; None: nowhere.
    calls_per_user, calls_per_address : int
        How many calls of one user, and from one address, may be under way at a time: both below the 20,000
        of all, so that others get through.
    listen_mtls : Endpoint or None
        A second port, for callers with client certificates, where others come with tokens.

    Raises
    ------
    ConfigurationError
        A value is unusable.
    """

    listen: Endpoint
    certificate: Path
    private_key: Path
    bind_host: str
    advertise_host: str
    ports: PortRange
    data_server: str
    authenticators: Mapping[str, Mapping[str, str]] = field(repr=False)  # with secrets
    data_server_settings: Mapping[str, object] = field(default_factory=dict)
    encryption: Encryption = Encryption.REQUIRED
    limits: Limits = field(default_factory=Limits)
    drain_timeout_s: float = 10
    bind_lan_host: str = "127.0.0.1"
    advertise_lan_host: str | None = None
    state_dir: Path | None = None
    orphan_limit_s: float = 86_400
    on_terminate: StopMode = StopMode.DRAIN
    capacity_mbps: float = 0
    pace: bool = False
    advertised_ports: PortRange | None = None
    tls: bool = True
    listen_mtls: Endpoint | None = None
    policy: Path | None = None
    audit: AuditSettings | None = None
    calls_per_user: int = 12_000
    calls_per_address: int = 16_000

    def __post_init__(self) -> None:
        for what, host in (
            ("bind", self.bind_host),
            ("advertise", self.advertise_host),
            ("bind-lan", self.bind_lan_host),
            ("advertise-lan", self.lan_host),
        ):
            try:
                Endpoint(host, 0)
            except InvalidArgument as error:
                raise ConfigurationError(f"--{what}: {error}") from error
        if _is_wildcard(self.advertise_host):
            raise ConfigurationError(
                f"--advertise {self.advertise_host} is no address that others could connect to; "
                "give the gateway's name or address on the network between the facilities"
            )
        if _is_wildcard(self.lan_host):
            raise ConfigurationError(
                f"--bind-lan {self.bind_lan_host} is no address that applications could connect to; "
                "give the gateway's name or address on the facility's own network with --advertise-lan HOST"
            )
        for what, seconds in (
            ("hello timeout", self.limits.hello_timeout_s),
            ("update timeout", self.limits.update_timeout_s),
            ("early hello timeout", self.limits.early_hello_timeout_s),
            ("queue timeout", self.limits.queue_timeout_s),
            ("drain timeout", self.drain_timeout_s),
            ("orphan limit", self.orphan_limit_s),
        ):
            if not 0 < seconds < float("inf"):
                raise ConfigurationError(f"the {what} is {seconds} s; it has to be above 0")
        for what, value, unit in (
            ("idle timeout", self.limits.idle_timeout_s, "s"),
            ("lifetime", self.limits.lifetime_s, "s"),
            ("capacity", self.capacity_mbps, "Mb/s"),
        ):
            if not 0 <= value < float("inf"):
                raise ConfigurationError(f"the {what} is {value} {unit}; it has to be 0 (none) or more")
        if self.on_terminate is StopMode.KEEP and self.state_dir is None:
            raise ConfigurationError(
                "sessions cannot be kept over the control server's end without a state directory; "
                "give one with --state-dir DIR"
            )
        if self.advertised_ports is not None and self.advertised_ports.size != self.ports.size:
            raise ConfigurationError(
                f"{self.advertised_ports.size} ports are advertised for {self.ports.size} that are listened "
                "on; give ranges of the same length with --port-range and --advertise-port-range"
            )

    @property
    def lan_host(self) -> str:
        """The host that consumers' applications are told to connect to."""
        return self.bind_lan_host if self.advertise_lan_host is None else self.advertise_lan_host


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`: a loopback address, or the name ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
