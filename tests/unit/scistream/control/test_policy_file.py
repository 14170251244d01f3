"""Policies as operators write them: read, and refused with the line that is wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.control.policy_file import parse_policy, read_policy
from scistream.core.destinations import Destination
from scistream.core.events import Role
from scistream.core.policy import Policy, Rule, Subject
from scistream.errors import ConfigurationError

WHOLE = """\
# the beamline's own people
[[rules]]
name = "beamline"
groups = ["aps-7bm"]
identities = ["alice@anl.gov"]
authenticators = ["globus"]
roles = ["PROD"]
targets = ["10.7.0.0/24:5000-5010", "[fd00::/8]:*"]
dials = ["192.0.2.0/24:5100-5200"]
max_sessions = 4
max_channels = 16
max_rate_mbps = 10_000
max_lifetime_s = 28_800.5

[[rules]]
anyone = true
roles = ["CONS"]
targets = ["192.0.2.7:5100-5200"]

[[administrators]]
domains = ["@ops.anl.gov"]
"""


def test_every_key_is_read() -> None:
    assert parse_policy(WHOLE) == Policy(
        rules=(
            Rule(
                name="beamline",
                who=Subject(
                    groups=frozenset({"aps-7bm"}),
                    identities=frozenset({"alice@anl.gov"}),
                    authenticators=frozenset({"globus"}),
                ),
                roles=frozenset({Role.PRODUCER}),
                targets=(Destination.parse("10.7.0.0/24:5000-5010"), Destination.parse("[fd00::/8]:*")),
                dials=(Destination.parse("192.0.2.0/24:5100-5200"),),
                max_sessions=4,
                max_channels=16,
                max_rate_mbps=10_000,
                max_lifetime_s=28_800.5,
            ),
            Rule(
                name="rule 2",
                who=Subject(anyone=True),
                roles=frozenset({Role.CONSUMER}),
                targets=(Destination.parse("192.0.2.7:5100-5200"),),
            ),
        ),
        administrators=(Subject(domains=frozenset({"ops.anl.gov"})),),
    )


@pytest.mark.parametrize(
    ("before", "after", "line", "what"),
    [
        ('name = "beamline"', 'name = "beamline', 3, "TOML"),
        ("[[administrators]]", "[[admins]]", 20, "admins is not known"),
        ("max_sessions = 4", "max_session = 4", 10, "max_session is not known"),
        ("max_sessions = 4", "max_sessions = 0", 10, "whole number above 0"),
        ("max_sessions = 4", "max_sessions = 2.5", 10, "whole number above 0"),
        ("max_sessions = 4", "max_sessions = true", 10, "whole number above 0"),
        ("max_lifetime_s = 28_800.5", "max_lifetime_s = inf", 13, "number above 0"),
        ('roles = ["CONS"]', 'roles = ["BOTH"]', 17, "'BOTH' is not a valid Role"),
        ('["192.0.2.7:5100-5200"]', '["gateway.example:5100"]', 18, "names are not taken"),
        ('["192.0.2.7:5100-5200"]', "[]", 18, "targets is empty"),
        ('targets = ["192.0.2.7:5100-5200"]', "", 15, "it has no targets"),
        ("anyone = true", "anyone = false", 16, "is for nobody"),
        ("anyone = true", 'anyone = "yes"', 16, "true or false"),
        ("anyone = true", 'anyone = true\ngroups = ["a"]', 16, "leave one out"),
        ("anyone = true", "", 15, "for whom it is by none of"),
        ('domains = ["@ops.anl.gov"]', "", 20, "for whom it is by none of"),
        ('roles = ["CONS"]', 'name = "beamline"', 17, "two rules 'beamline'"),
        ('groups = ["aps-7bm"]', 'groups = "aps-7bm"', 4, "a list of texts"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(before: str, after: str, line: int, what: str) -> None:
    assert before in WHOLE
    with pytest.raises(ConfigurationError) as refused:
        parse_policy(WHOLE.replace(before, after))
    assert f"line {line}" in str(refused.value)
    assert what in str(refused.value)


@given(st.text(alphabet="[]rules=\"\n .anyotgdmis10#'{},", max_size=80))
def test_any_text_is_a_policy_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        parse_policy(text)


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with pytest.raises(ConfigurationError, match=r"policy\.toml cannot be read"):
        read_policy(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"policy\.toml is not UTF-8"):
        read_policy(path)
    path.write_text("x = 1")
    with pytest.raises(ConfigurationError, match=r"policy\.toml: line 1: x is not known"):
        read_policy(path)
    path.write_text("")
    assert read_policy(path) == Policy()
