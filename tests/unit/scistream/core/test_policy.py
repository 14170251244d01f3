"""Decisions of a policy: who is meant, which rule decides, what it lets them have, where they may lead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.core.destinations import Destination, parse_address
from scistream.core.events import Role
from scistream.core.policy import OwnPlaces, Policy, Rule, Subject, Usage, usage_of
from scistream.core.principal import Who

NAMES = st.sampled_from(["alice", "bob", "globus:1", "oidc:x@anl.gov@https://id.example"])
IDENTITIES = st.frozensets(st.sampled_from(["alice@anl.gov", "Bob@ANL.gov", "eve@evil.example", "uuid-1"]))
GROUPS = st.frozensets(st.sampled_from(["7bm", "ops"]))
AUTHENTICATORS = st.sampled_from(["globus", "oidc", "shared-key"])
WHO = st.builds(Who, name=NAMES, authenticator=AUTHENTICATORS, identities=IDENTITIES, groups=GROUPS)
DOMAINS = st.frozensets(st.sampled_from(["anl.gov", "evil.example"]))
SUBJECTS = st.builds(
    Subject,
    identities=st.frozensets(st.sampled_from(["alice", "alice@anl.gov", "bob@anl.gov", "uuid-1"])),
    domains=DOMAINS,
    groups=GROUPS,
    authenticators=st.frozensets(AUTHENTICATORS, max_size=2),
    anyone=st.booleans(),
)
TARGETS = st.lists(
    st.sampled_from(
        ["10.0.0.0/8:5000-5010", "10.0.1.5/32:*", "0.0.0.0/0:*", "127.0.0.0/8:*", "[::/0]:*"]
    ).map(Destination.parse),
    max_size=3,
).map(tuple)
LIMITS = st.none() | st.integers(1, 10)
RULES = st.builds(
    Rule,
    name=st.sampled_from(["a", "b"]),
    who=SUBJECTS,
    roles=st.frozensets(st.sampled_from(Role), min_size=1),
    targets=TARGETS,
    dials=TARGETS,
    max_sessions=LIMITS,
    max_channels=LIMITS,
    max_rate_mbps=st.none() | st.floats(1, 1000),
    max_lifetime_s=st.none() | st.floats(1, 1000),
)
POLICIES = st.builds(
    Policy,
    rules=st.lists(RULES, max_size=4).map(tuple),
    administrators=st.lists(SUBJECTS, max_size=2).map(tuple),
)
USAGE = st.builds(Usage, sessions=st.integers(0, 10), channels=st.integers(0, 20))
ADDRESSES = st.sampled_from(["10.0.1.5", "127.0.0.1", "::1", "2001:db8::1", "169.254.1.1", "192.0.2.1"]).map(
    parse_address
)
PORTS = st.sampled_from([22, 5000, 5005, 6000])


# --- who is meant ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "meant"),
    [
        ({"anyone": True}, True),
        ({}, False),
        ({"identities": {"alice"}}, True),
        ({"identities": {"ALICE"}}, False),
        ({"identities": {"alice@ANL.gov"}}, True),
        ({"domains": {"anl.gov"}}, True),
        ({"domains": {"gov"}}, False),
        ({"domains": {"nl.gov"}}, False),
        ({"groups": {"7bm"}}, True),
        ({"groups": {"ops"}}, False),
        ({"authenticators": {"globus"}}, True),
        ({"authenticators": {"oidc"}}, False),
        ({"authenticators": {"oidc"}, "identities": {"alice"}}, False),
        ({"authenticators": {"globus"}, "groups": {"ops"}}, False),
        ({"authenticators": {"globus"}, "groups": {"7bm"}}, True),
        ({"authenticators": {"oidc"}, "anyone": True}, False),
        ({"identities": {"nobody"}, "groups": {"7bm"}}, True),
    ],
)
def test_a_subject_means_who_has_one_of_what_it_names(subject: dict[str, Any], meant: bool) -> None:
    who = Who(
        name="alice",
        authenticator="globus",
        identities=frozenset({"alice@anl.gov"}),
        groups=frozenset({"7bm"}),
    )
    values = {key: value if value is True else frozenset(value) for key, value in subject.items()}
    assert Subject(**values).means(who) is meant


@pytest.mark.attack("a name that a provider lets its user choose, taken for a domain")
def test_a_domain_is_never_read_out_of_a_name_that_a_provider_makes() -> None:
    who = Who(name="oidc:root@anl.gov", authenticator="oidc")
    assert not Subject(domains=frozenset({"anl.gov"})).means(who)
    assert Subject(domains=frozenset({"anl.gov"})).means(
        Who(name="alice@ANL.gov", authenticator="shared-key")
    )


@given(SUBJECTS, WHO)
def test_who_is_meant_without_anyone_has_something_that_is_named(subject: Subject, who: Who) -> None:
    if not subject.means(who):
        return
    assert not subject.authenticators or who.authenticator in subject.authenticators
    lower = {one.lower() for one in who.identities | {who.name}}
    assert (
        subject.anyone
        or subject.groups & who.groups
        or subject.domains & who.domains
        or {one.lower() for one in subject.identities} & lower
        or not (subject.identities or subject.domains or subject.groups)
    )


# --- which rule ------------------------------------------------------------------------------------------


@given(POLICIES, WHO, st.sampled_from(Role), st.integers(1, 12), st.floats(0, 2000), USAGE)
def test_a_request_is_allowed_by_the_first_rule_for_it_and_within_its_limits_alone(
    policy: Policy, who: Who, role: Role, num_conn: int, rate: float, usage: Usage
) -> None:
    decision = policy.decide_request(who, role, num_conn=num_conn, rate_mbps=rate, usage=usage)
    fitting = [rule for rule in policy.rules if role in rule.roles and rule.who.means(who)]
    assert decision.rule == (fitting[0] if fitting else None)
    if not fitting:
        assert not decision.allowed
        return
    rule = fitting[0]
    within = (rule.max_sessions is None or usage.sessions < rule.max_sessions) and (
        rule.max_channels is None or usage.channels + num_conn <= rule.max_channels
    )
    assert decision.allowed is within
    assert decision.why
    if within:
        assert rule.max_rate_mbps is None or 0 < decision.rate_mbps <= rule.max_rate_mbps
        assert decision.rate_mbps <= rate or not rate
        assert decision.longest_s == (rule.max_lifetime_s or 0)


@given(POLICIES, WHO, st.sampled_from(Role), ADDRESSES, PORTS, st.booleans(), st.frozensets(PORTS))
def test_an_address_is_allowed_only_where_a_destination_of_the_rule_holds_it_and_it_is_not_our_own(
    policy: Policy, who: Who, role: Role, address: Any, port: int, dials: bool, own_ports: frozenset[int]
) -> None:
    own = OwnPlaces(addresses=frozenset({parse_address("192.0.2.1")}), ports=own_ports)
    decision = policy.decide_address(who, role, address, port, dials=dials, own=own)
    rule = policy.rule_for(who, role)
    places = () if rule is None else rule.dials if dials else rule.targets
    ours = port in own_ports and (address.is_loopback or str(address) == "192.0.2.1")
    assert decision.allowed is (any(one.holds(address, port) for one in places) and not ours)


@given(POLICIES, WHO)
def test_an_administrator_is_who_one_of_the_entries_means(policy: Policy, who: Who) -> None:
    assert policy.is_administrator(who) is any(one.means(who) for one in policy.administrators)


@given(WHO, st.sampled_from(Role))
def test_without_a_rule_nothing_is_allowed(who: Who, role: Role) -> None:
    policy = Policy()
    assert not policy.decide_request(who, role, num_conn=1, rate_mbps=0, usage=Usage()).allowed
    for address in ("10.0.0.1", "127.0.0.1"):
        decision = policy.decide_address(who, role, parse_address(address), 5000, own=OwnPlaces())
        assert not decision.allowed
    assert not policy.is_administrator(who)


def test_what_is_refused_names_rule_limit_and_what_it_would_be() -> None:
    policy = Policy(rules=(Rule(name="beamline", who=Subject(anyone=True), max_sessions=2, max_channels=4),))
    decide: Callable[..., Any] = policy.decide_request
    who = Who(name="alice")
    many = decide(who, Role.PRODUCER, num_conn=1, rate_mbps=0, usage=Usage(sessions=2, channels=2))
    assert "'beamline'" in many.why
    assert "2 sessions, and these would be 3" in many.why
    wide = decide(who, Role.PRODUCER, num_conn=3, rate_mbps=0, usage=Usage(sessions=1, channels=2))
    assert "4 channels, and these would be 5" in wide.why


def test_no_wish_for_a_rate_is_granted_as_the_most() -> None:
    policy = Policy(rules=(Rule(name="beamline", who=Subject(anyone=True), max_rate_mbps=500),))
    granted = [
        policy.decide_request(
            Who(name="a"), Role.PRODUCER, num_conn=1, rate_mbps=rate, usage=Usage()
        ).rate_mbps
        for rate in (0, 100, 500, 10_000)
    ]
    assert granted == [500, 100, 500, 500]


def test_usage_is_counted_over_sessions() -> None:
    assert usage_of([3, 1]) == Usage(sessions=2, channels=4)
