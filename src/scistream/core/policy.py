"""What who may do at this gateway: rules in the operator's order, of which the first that fits decides.

Values and decisions only; `scistream.control.policy_file` reads them, `scistream.control.authorisation` asks
them. What no rule allows is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scistream.core.destinations import Address, Destination, set_apart
from scistream.core.events import Role
from scistream.core.principal import Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom something is for.

    Parameters
    ----------
    identities, domains, groups : frozenset of str
        Somebody who has one of them is meant.
    authenticators : frozenset of str
        If there are any, only who is known by one of these; alone, everybody who is.
    anyone : bool
        Everybody whom an authenticator knows.
    """

    identities: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    authenticators: frozenset[str] = frozenset()
    anyone: bool = False

    def means(self, who: Who) -> bool:
        """Return whether `who` is meant."""
        if self.authenticators and who.authenticator not in self.authenticators:
            return False
        if self.anyone or not (self.identities or self.domains or self.groups):
            return self.anyone or bool(self.authenticators)
        return (
            who.name in self.identities
            or not self._lower_identities.isdisjoint(one.lower() for one in who.identities)
            or not self.domains.isdisjoint(who.domains)
            or not self.groups.isdisjoint(who.groups)
        )

    @property
    def _lower_identities(self) -> frozenset[str]:
        # a provider's user names do not differ by case alone; names that an operator gives may
        return frozenset(one.lower() for one in self.identities)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What some may do.

    Parameters
    ----------
    name : str
        For people: in errors, the audit, and what explains a decision.
    who : Subject
        Whom it is for.
    roles : frozenset of Role
        As which side they may open sessions here.
    targets : tuple of Destination
        Where the data server may connect for them: to applications as the producer's side, to other gateways
        as the consumer's.
    dials : tuple of Destination
        Where the producer's side of a reverse session may dial the other gateway.
    max_sessions, max_channels : int or None
        How many they may have at a time, each of them; None: without limit.
    max_rate_mbps : float or None
        What a session gets at most, in Mb/s.
    max_lifetime_s : float or None
        How long a session lives at most, whether it is renewed or not.
    """

    name: str
    who: Subject
    roles: frozenset[Role] = frozenset(Role)
    targets: tuple[Destination, ...] = ()
    dials: tuple[Destination, ...] = ()
    max_sessions: int | None = None
    max_channels: int | None = None
    max_rate_mbps: float | None = None
    max_lifetime_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What somebody has already: living sessions, and their channels."""

    sessions: int = 0
    channels: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlaces:
    """Where the control server itself, and what it has bound for sessions, can be reached: never a target.

    Parameters
    ----------
    addresses : frozenset of Address
        All of this machine, and those that it is advertised by.
    ports : frozenset of int
        On them.
    """

    addresses: frozenset[Address] = frozenset()
    ports: frozenset[int] = frozenset()

    def hold(self, address: Address, port: int) -> bool:
        """Return whether `address` and `port` are the gateway's own."""
        here = address.is_loopback or address.is_unspecified or address in self.addresses
        return here and port in self.ports


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether something may be done, and why.

    Parameters
    ----------
    why : str
        One sentence for who asks: it names the rule and its limits, and nobody else.
    rule : Rule or None
        The one that decides; None where none is for the caller.
    rate_mbps, longest_s : float
        Of a session that may be opened: its rate, and how long it lives at most (0: no limit).
    """

    allowed: bool
    why: str
    rule: Rule | None = None
    rate_mbps: float = 0
    longest_s: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one gateway.

    Parameters
    ----------
    rules : tuple of Rule
        In the order in which they are looked at.
    administrators : tuple of Subject
        Who sees and ends all sessions.
    """

    rules: tuple[Rule, ...] = ()
    administrators: tuple[Subject, ...] = ()

    def is_administrator(self, who: Who) -> bool:
        """Return whether `who` may see and end everybody's sessions."""
        return any(one.means(who) for one in self.administrators)

    def rule_for(self, who: Who, role: Role) -> Rule | None:
        """Return the first rule that is for `who` in `role`."""
        return next((rule for rule in self.rules if role in rule.roles and rule.who.means(who)), None)

    def decide_request(
        self, who: Who, role: Role, *, num_conn: int, rate_mbps: float, usage: Usage
    ) -> Decision:
        """Decide whether `who` may open a session besides what it has.

        A rate above the rule's, or none, is granted as the rule's.
        """
        rule = self.rule_for(who, role)
        if rule is None:
            return Decision(
                allowed=False,
                why=f"this gateway's policy has no rule by which {who.name} may open sessions as "
                f"{role.value}; ask its operator",
            )
        for what, limit, wanted in (
            ("sessions", rule.max_sessions, usage.sessions + 1),
            ("channels", rule.max_channels, usage.channels + num_conn),
        ):
            if limit is not None and wanted > limit:
                return Decision(
                    allowed=False,
                    why=f"rule {rule.name!r} of this gateway's policy lets a user have {limit} {what}, and "
                    f"these would be {wanted}; release sessions, or ask for fewer channels",
                    rule=rule,
                )
        rate = rate_mbps
        if rule.max_rate_mbps is not None:
            rate = min(rate_mbps or rule.max_rate_mbps, rule.max_rate_mbps)
        return Decision(
            allowed=True,
            why=f"rule {rule.name!r}",
            rule=rule,
            rate_mbps=rate,
            longest_s=rule.max_lifetime_s or 0,
        )

    def decide_address(
        self, who: Who, role: Role, address: Address, port: int, *, dials: bool = False, own: OwnPlaces
    ) -> Decision:
        """Decide whether the data server may connect to `address` for a session of `who`.

        Parameters
        ----------
        dials : bool
            Whether it is the other gateway of a reverse session that is dialled, and not an application.
        own : OwnPlaces
            Of the gateway.
        """
        where = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        rule = self.rule_for(who, role)
        if rule is None:
            return Decision(
                allowed=False,
                why=f"this gateway's policy has no rule by which {who.name} may be {role.value} here",
            )
        if own.hold(address, port):
            return Decision(allowed=False, why=f"{where} is this gateway's own", rule=rule)
        allowed = rule.dials if dials else rule.targets
        if any(one.holds(address, port) for one in allowed):
            return Decision(allowed=True, why=f"rule {rule.name!r}", rule=rule)
        special = set_apart(address)
        besides = f" ({special}: only a rule that names it means it)" if special else ""
        what = "dials" if dials else "targets"
        return Decision(
            allowed=False,
            why=f"rule {rule.name!r} of this gateway's policy has not {where} among its {what}{besides}",
            rule=rule,
        )


def usage_of(channels: Iterable[int]) -> Usage:
    """Return the usage that living sessions with so many channels each are."""
    counts = tuple(channels)
    return Usage(sessions=len(counts), channels=sum(counts))
