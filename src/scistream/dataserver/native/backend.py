"""The native data server of one gateway, as control servers see it: the settings of its tree of processes."""

from __future__ import annotations

import os
from pathlib import Path

from scistream.dataserver.multipath import why_no_multipath
from scistream.dataserver.native.sockets import why_no_congestion_control
from scistream.dataserver.tree.backend import TreeBackend
from scistream.errors import ConfigurationError

MAX_BUFFER_BYTES = 1 << 30
"""The largest window that TCP has."""
MAX_DSCP = 63
MIN_PEER_TIMEOUT_S = 2.0
"""Keepalive counts whole seconds."""
LAN_CONGESTION = "cubic"
"""BBR's pacing halves the speed of short paths."""


class NativeBackend(TreeBackend):
    """The native data server of one gateway.

    Parameters
    ----------
    workers : int, optional
        Worker processes; one per core that this process may use if not given.
    congestion_lan : str or None
        TCP congestion control of all legs at first; None: `LAN_CONGESTION` where this user may use it.
    congestion_wan : str or None
        That of wide-area legs with a long round trip; None: BBR where this user may use it.
    wan_buffer_bytes : int or None
        Socket buffers of such legs, in each direction; None: from rate and measured round trip, 0: the
        kernel's.
    dscp : int or None
        Differentiated services code point of what is sent on wide-area legs.
    mptcp : bool
        Dial and accept wide-area legs with MPTCP, which is TCP where the other side does not have it.
    peer_timeout_s : float
        A connection whose peer has left everything unanswered for so long is reset.
    tls_engine : str or None
        ``"kernel"``, ``"openssl"`` or ``"stdlib"``; None takes the first that works.

    Raises
    ------
    ConfigurationError
        A value makes no sense, or this user may not use the congestion control that is named.
    """

    reverses = True
    paces = True

    def __init__(
        self,
        *,
        workers: int | None = None,
        congestion_lan: str | None = None,
        congestion_wan: str | None = None,
        wan_buffer_bytes: int | None = None,
        dscp: int | None = None,
        mptcp: bool = False,
        peer_timeout_s: float = 120.0,
        tls_engine: str | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigurationError(f"workers is {workers}: at least one is needed")
        if wan_buffer_bytes is not None and not 0 <= wan_buffer_bytes <= MAX_BUFFER_BYTES:
            raise ConfigurationError(f"wan_buffer_bytes is {wan_buffer_bytes}: give 0 to {MAX_BUFFER_BYTES}")
        if dscp is not None and not 0 <= dscp <= MAX_DSCP:
            raise ConfigurationError(f"dscp is {dscp}: it has six bits, so give 0 to {MAX_DSCP}")
        if not peer_timeout_s >= MIN_PEER_TIMEOUT_S:
            raise ConfigurationError(
                f"peer_timeout_s is {peer_timeout_s}: at least {MIN_PEER_TIMEOUT_S} are needed"
            )
        _check_congestion("congestion_lan", congestion_lan)
        _check_congestion("congestion_wan", congestion_wan)
        self._multipath_listeners = mptcp and not why_no_multipath()
        super().__init__(
            "native",
            "scistream.dataserver.native",
            {
                "workers": workers or len(os.sched_getaffinity(0)),
                "congestion_lan": congestion_lan or LAN_CONGESTION,
                "congestion_wan": congestion_wan,
                "wan_buffer_bytes": wan_buffer_bytes,
                "dscp": dscp,
                "mptcp": mptcp,
                "peer_timeout_s": peer_timeout_s,
                "tls_engine": tls_engine,
            },
        )

    @property
    def multipath_listeners(self) -> bool:
        """Whether listeners that other gateways connect to are to accept MPTCP besides TCP."""
        return self._multipath_listeners


def _check_congestion(setting: str, name: str | None) -> None:
    """See that this user may use what the operator has named; what is not named is chosen by the workers."""
    if not name or not (reason := why_no_congestion_control(name)):
        return
    available, allowed = (
        Path(f"/proc/sys/net/ipv4/tcp_{which}_congestion_control").read_text(encoding="ascii").split()
        for which in ("available", "allowed")
    )
    usable = ", ".join(one for one in available if not why_no_congestion_control(one))
    raise ConfigurationError(
        f"{setting} is {name!r}, which this user may not use here ({reason}); give one of {usable}, or as "
        f"root: modprobe tcp_{name}; sysctl -w "
        f"net.ipv4.tcp_allowed_congestion_control='{' '.join(allowed)} {name}'"
    )
