"""A session as a record of plain values (texts, numbers, lists), to be kept and read back.

The calls that wait for an answer are left out: who made them is gone when a record is read. Certificates
are in it, private keys are not: a session has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey
from scistream.core.principal import Who
from scistream.core.session import ENDS, Session, State
from scistream.errors import ConfigurationError, InvalidArgument


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """How values of one type are written, and read back."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _checked(kind: type | tuple[type, ...]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        # True is an int to Python, and no number of anything
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidArgument(f"{value!r} has the wrong type")
        return value

    return read


def _listed(form: _Form, kind: Callable[[Any], Any] = tuple) -> _Form:
    def write(values: Any) -> list[Any]:
        return [form.write(value) for value in values]

    def read(values: Any) -> Any:
        return kind(form.read(value) for value in _checked(list)(values))

    return _Form(write, read)


def _named(kind: type[StrEnum]) -> _Form:
    return _Form(str, lambda value: kind(_checked(str)(value)))


_TEXT = _Form(str, _checked(str))
_BOOL = _Form(bool, _checked(bool))
_COUNT = _Form(int, _checked(int))
_NUMBER = _Form(float, lambda value: float(_checked((int, float))(value)))
# PEM is ASCII; Latin-1 keeps any byte
_BYTES = _Form(lambda value: value.decode("latin-1"), lambda value: _checked(str)(value).encode("latin-1"))
_STATE = _named(State)
_ENDPOINTS = _listed(_Form(str, lambda value: Endpoint.parse(_checked(str)(value))))
_PORTS = _listed(_COUNT)
_TEXTS = _listed(_TEXT)


def _write_who(who: Who | None) -> dict[str, Any] | None:
    if who is None:
        return None
    return {
        "name": who.name,
        "authenticator": who.authenticator,
        "identities": sorted(who.identities),
        "groups": sorted(who.groups),
    }


def _read_who(value: Any) -> Who | None:
    if value is None:
        return None
    if _checked(dict)(value).keys() != {"name", "authenticator", "identities", "groups"}:
        raise InvalidArgument(f"{sorted(map(str, value))} are not the fields of a principal")
    return Who(
        name=_TEXT.read(value["name"]),
        authenticator=_TEXT.read(value["authenticator"]),
        identities=frozenset(_TEXTS.read(value["identities"])),
        groups=frozenset(_TEXTS.read(value["groups"])),
    )


_FORMS: Mapping[str, _Form] = MappingProxyType(
    {
        "key": _Form(
            lambda key: [key.owner, key.uid],
            lambda value: SessionKey(*_listed(_TEXT).read(value)),
        ),
        "role": _named(Role),
        "num_conn": _COUNT,
        "rate_mbps": _NUMBER,
        "reverse": _BOOL,
        "queue": _BOOL,
        "state": _STATE,
        "outcome": _Form(
            lambda outcome: outcome and str(outcome),
            lambda value: None if value is None else _STATE.read(value),
        ),
        "ports": _PORTS,
        "held_mbps": _NUMBER,
        "taken_elsewhere": _Form(sorted, _listed(_COUNT, frozenset).read),
        "listeners": _ENDPOINTS,
        "reverse_listeners": _ENDPOINTS,
        "destinations": _ENDPOINTS,
        "targets": _ENDPOINTS,
        "certificate_pem": _BYTES,
        "peer_certificate_pem": _BYTES,
        "peer_data_server": _TEXT,
        "generation": _COUNT,
        "ready_generation": _COUNT,
        "ready_targets": _ENDPOINTS,
        "ready_peer_certificate_pem": _BYTES,
        "ready_peer_data_server": _TEXT,
        "ready_reverse_listeners": _ENDPOINTS,
        "restart_generation": _COUNT,
        "restarts": _COUNT,
        "restarts_in_a_row": _COUNT,
        "notice": _TEXT,
        "idle_timeout_s": _NUMBER,
        "lifetime_s": _NUMBER,
        "term_s": _NUMBER,
        "who": _Form(_write_who, _read_who),
        "credential_hashes": _TEXTS,
        "idle_looks": _COUNT,
        "traffic": _COUNT,
        "looking": _BOOL,
        "reason": _TEXT,
    }
)


def to_record(session: Session) -> dict[str, Any]:
    """Return what is known of `session`, without the calls that wait, as values that JSON can hold."""
    return {name: form.write(getattr(session, name)) for name, form in _FORMS.items()}


def from_record(record: Mapping[str, Any]) -> Session:
    """Return the session that `record` was made of. Nobody waits for it.

    Raises
    ------
    ConfigurationError
        It is no record of a session, or of another version of this software.
    """
    if not isinstance(record, Mapping) or record.keys() != _FORMS.keys():
        differing = sorted(map(str, record.keys() ^ _FORMS.keys())) if isinstance(record, Mapping) else []
        raise ConfigurationError(
            "the journal holds something that is no session of this version"
            + (f" (fields that differ: {', '.join(differing)})" if differing else "")
            + "; start with another state directory, or with the version that wrote it"
        )
    values: dict[str, Any] = {}
    for name, form in _FORMS.items():
        try:
            values[name] = form.read(record[name])
        except (InvalidArgument, TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"the journal holds a session whose {name} cannot be read: {error}; "
                "start with another state directory"
            ) from error
    session = Session(**values)
    if session.state.ended != (session.outcome in ENDS) or (
        session.freed and session.state != session.outcome
    ):
        raise ConfigurationError(
            f"the journal holds session {session.key.uid}, {session.state}, with the outcome "
            f"{session.outcome}; start with another state directory"
        )
    return session
