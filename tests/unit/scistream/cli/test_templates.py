"""What a supervised command is told: words in its arguments, and environment."""

from __future__ import annotations

import pytest

from scistream.cli import templates
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import ConfigurationError

LISTENERS = [Endpoint("gw.example", 5100), Endpoint("fd00::7", 5101)]


def filled(*arguments: str, role: Role = Role.CONSUMER) -> list[str]:
    templates.check_names(arguments, role)
    return templates.fill(arguments, templates.values("0f3c", role, LISTENERS))


def test_words_are_replaced_within_arguments() -> None:
    assert filled("-c", "{host}", "-p{port}", "{listener}|{listeners}", "{listener1}", "{uid}/{role}") == [
        *("-c", "gw.example", "-p5100", "gw.example:5100|gw.example:5100,[fd00::7]:5101"),
        *("[fd00::7]:5101", "0f3c/CONS"),
    ]


def test_a_producer_has_addresses() -> None:
    assert filled("{address} {addresses} {address1} {port}", role=Role.PRODUCER) == [
        "gw.example:5100 gw.example:5100,[fd00::7]:5101 [fd00::7]:5101 5100"
    ]


def test_braces_written_twice_are_braces_and_nothing_is_replaced_twice() -> None:
    assert filled("{{host}}", '{{"a": {{"b": 1}}}}', "{{{port}}}", "${{X}}") == [
        "{host}",
        '{"a": {"b": 1}}',
        "{5100}",
        "${X}",
    ]


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("{hots}", "{hots} in the argument"),
        ("{}", "{} in the argument"),
        ("{listener0.host}", "{listener0.host} in"),
        ("{listener!r}", "means nothing for role CONS"),
        ("{address}", "{listeners}"),
        ("a}", "a single brace"),
        ("{", "write {{ and }}"),
    ],
)
def test_unknown_names_are_refused_with_those_that_are_known(argument: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        templates.check_names(["ok", argument], Role.CONSUMER)
    assert complaint in str(refused.value)


def test_a_listener_that_the_session_does_not_have_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"\{listener2\} is not there: the session has 2 listeners"):
        filled("{listener2}")


def test_the_environment_says_the_same() -> None:
    values = templates.values("0f3c", Role.CONSUMER, LISTENERS)
    assert templates.environment(values) == {
        "SCISTREAM_UID": "0f3c",
        "SCISTREAM_ROLE": "CONS",
        "SCISTREAM_LISTENERS": "gw.example:5100,[fd00::7]:5101",
        "SCISTREAM_LISTENER_HOST": "gw.example",
        "SCISTREAM_LISTENER_PORT": "5100",
        "SCISTREAM_LISTENER_0": "gw.example:5100",
        "SCISTREAM_LISTENER_1": "[fd00::7]:5101",
    }
    assert templates.environment(templates.values("x", Role.PRODUCER, LISTENERS[:1])) == {
        "SCISTREAM_UID": "x",
        "SCISTREAM_ROLE": "PROD",
        "SCISTREAM_ADDRESSES": "gw.example:5100",
        "SCISTREAM_ADDRESS_HOST": "gw.example",
        "SCISTREAM_ADDRESS_PORT": "5100",
        "SCISTREAM_ADDRESS_0": "gw.example:5100",
    }
