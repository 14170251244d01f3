"""Asks the policy: may this caller do that, and may a data server connect there for it.

Names are looked up here, and data servers are given the addresses that were found and allowed: a name that is
answered otherwise a moment later (DNS rebinding) leads nowhere else. This happens at every start, restart and
retargeting of a data server, whatever was said at HELLO and UpdateTargets before.

Without a policy everything is allowed that was before there were policies, and names are the data servers'.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from scistream.control.names import addresses_of
from scistream.control.policy_file import read_policy
from scistream.core.destinations import Address, parse_address
from scistream.core.endpoint import Endpoint
from scistream.core.events import Request, Role
from scistream.core.policy import Decision, OwnPlaces, Policy, Usage
from scistream.core.principal import Who
from scistream.errors import ConfigurationError, InvalidArgument, PermissionDenied

logger = logging.getLogger(__name__)


class Authorisation:
    """The policy of one gateway, as it is now.

    Parameters
    ----------
    path : Path or None
        The policy's file; None: there is no policy.
    advertised : iterable of str
        Addresses by which this machine is known besides its own.

    Raises
    ------
    ConfigurationError
        The file cannot be used.
    """

    def __init__(self, path: Path | None = None, *, advertised: Iterable[str] = ()) -> None:
        self._path = path
        self._policy = read_policy(path) if path is not None else None
        self._loaded = _now()
        self._refused = ""
        self._advertised = frozenset(_addresses(advertised))
        #: Ports of this machine that are the gateway's own; set when they are known.
        self.own_ports: Callable[[], Iterable[int]] = tuple

    @property
    def is_limited(self) -> bool:
        """Whether there is a policy at all."""
        return self._policy is not None

    @property
    def caps_rates(self) -> bool:
        """Whether a rule limits the rate of sessions."""
        rules = self._policy.rules if self._policy is not None else ()
        return any(rule.max_rate_mbps is not None for rule in rules)

    @property
    def notices(self) -> tuple[str, ...]:
        """What an administrator has to know of the policy."""
        loaded = f"policy {self._path} of {self._loaded}"
        return (loaded, self._refused) if self._refused else (loaded,)

    def reload(self) -> None:
        """Read the file again; one that cannot be used changes nothing, and the log and status say so."""
        if self._path is None:
            return
        try:
            self._policy = read_policy(self._path)
        except ConfigurationError as error:
            self._refused = f"refused at {_now()}, the one before goes on: {error}"
            logger.error("the policy was not taken, the one before goes on: %s", error)  # noqa: TRY400
            return
        self._loaded, self._refused = _now(), ""
        logger.info(
            "the policy %s was read again: %d rules, %d entries of administrators",
            self._path,
            len(self._policy.rules),
            len(self._policy.administrators),
        )

    def is_administrator(self, who: Who) -> bool:
        """Return whether `who` sees and ends everybody's sessions."""
        return self._policy is not None and self._policy.is_administrator(who)

    def check_administrator(self, who: Who) -> None:
        """Refuse what only administrators may.

        Raises
        ------
        PermissionDenied
            `who` is none.
        """
        if not self.is_administrator(who):
            raise PermissionDenied("other users' sessions are for administrators of this gateway alone")

    def admit(self, who: Who, event: Request, usage: Callable[[], Usage]) -> tuple[Request, str]:
        """Return `event` as it is allowed, with what it gets at most, and by which rule.

        Parameters
        ----------
        usage : callable
            Returns what the owner has besides.

        Raises
        ------
        PermissionDenied
            `who` may not have that.
        """
        if self._policy is None:
            return event, "there is no policy"
        decision = self._policy.decide_request(
            who, event.role, num_conn=event.num_conn, rate_mbps=event.rate_mbps, usage=usage()
        )
        if not decision.allowed:
            raise PermissionDenied(f"session {event.key.uid}: {decision.why}")
        return replace(event, rate_mbps=decision.rate_mbps, term_s=decision.longest_s), decision.why

    async def connectable(
        self, uid: str, who: Who, role: Role, targets: Sequence[Endpoint], *, dials: bool = False
    ) -> tuple[Endpoint, ...]:
        """Return where a data server is to connect to for `targets`: each as an address that is allowed.

        Of a name with several addresses it is the first that is allowed.

        Raises
        ------
        PermissionDenied
            For one of them there is no such address.
        InvalidArgument, PeerError
            A name has no address, or nobody can tell now.
        """
        if self._policy is None:
            return tuple(targets)
        found: dict[str, tuple[str, ...]] = {}
        for host in dict.fromkeys(target.host for target in targets):
            found[host] = await addresses_of(host, uid)
        own = self._own_places()
        # it may have been read again while names were looked up
        policy = self._policy
        return tuple(
            self._first_allowed(policy, uid, who, role, target, found[target.host], own, dials=dials)
            for target in targets
        )

    def _first_allowed(
        self,
        policy: Policy,
        uid: str,
        who: Who,
        role: Role,
        target: Endpoint,
        addresses: Sequence[str],
        own: OwnPlaces,
        *,
        dials: bool,
    ) -> Endpoint:
        refused: Decision | None = None
        for text in addresses:
            address = parse_address(text)
            decision = policy.decide_address(who, role, address, target.port, dials=dials, own=own)
            if decision.allowed:
                # as it was judged; only a zone is still needed, to reach a link-local one
                return Endpoint(text if "%" in text else str(address), target.port)
            refused = refused or decision
        why = refused.why if refused is not None else f"{target.host} has no address"
        raise PermissionDenied(f"session {uid}: {target} may not be connected to: {why}")

    def _own_places(self) -> OwnPlaces:
        local = _addresses(
            address.address for addresses in psutil.net_if_addrs().values() for address in addresses
        )
        return OwnPlaces(addresses=frozenset(local) | self._advertised, ports=frozenset(self.own_ports()))


def _addresses(texts: Iterable[str]) -> Iterable[Address]:
    for text in texts:
        try:
            yield parse_address(text)
        except InvalidArgument:  # a name, or an address of another kind than IP
            continue


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
