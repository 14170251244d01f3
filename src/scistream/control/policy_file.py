"""The policy as its operator writes it: a TOML file, read into `scistream.core.policy`.

::

    [[rules]]
    name = "beamline"
    groups = ["aps-7bm"]             # and: identities, domains, authenticators, anyone = true
    roles = ["PROD"]                 # both, if it is left out
    targets = ["10.7.0.0/24:5000-5010"]
    max_sessions = 4                 # and: max_channels, max_rate_mbps, max_lifetime_s, dials

    [[administrators]]
    identities = ["ops@aps.anl.gov"]

Whatever is wrong is said with its line, and nothing of the file is taken then.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from scistream.core.destinations import Destination
from scistream.core.events import Role
from scistream.core.policy import Policy, Rule, Subject
from scistream.errors import ConfigurationError, InvalidArgument

_MAX_BYTES = 1 << 20
_NEWLINE = "\n"
_SUBJECT = ("identities", "domains", "groups", "authenticators")
_NUMBERS = ("max_sessions", "max_channels", "max_rate_mbps", "max_lifetime_s")
_KEYS = {
    "rules": {"name", *_SUBJECT, "anyone", "roles", "targets", "dials", *_NUMBERS},
    "administrators": {*_SUBJECT, "anyone"},
}


def read_policy(path: Path) -> Policy:
    """Return the policy in the file `path`.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is none; the message says in which line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"the policy {path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise ConfigurationError(f"the policy {path} has more than {_MAX_BYTES} bytes; it is none")
    try:
        return parse_policy(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the policy {path} is not UTF-8: {error}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"the policy {path}: {error}") from error


def parse_policy(text: str) -> Policy:
    """Return the policy that `text` is.

    Raises
    ------
    ConfigurationError
        It is none; the message says in which line.
    """
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # "(at line 3, column 7)", or this
        where = str(error).replace("at end of document", f"at line {text.count(_NEWLINE) + 1}, the last one")
        raise ConfigurationError(f"no TOML: {where}") from error
    for key, value in content.items():
        if key not in _KEYS:
            _Place(text, key).refuse(f"{key} is not known; there are [[rules]] and [[administrators]]")
        if not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
            _Place(text, key).refuse(f"{key} has to be tables: [[{key}]]")
    rules: list[Rule] = []
    for number, table in enumerate(content.get("rules", [])):
        rule = _rule(_Table(text, "rules", number, table))
        if any(rule.name == other.name for other in rules):
            _Place(text, "rules", number, "name").refuse(f"there are two rules {rule.name!r}")
        rules.append(rule)
    administrators = tuple(
        _subject(_Table(text, "administrators", number, table))
        for number, table in enumerate(content.get("administrators", []))
    )
    return Policy(rules=tuple(rules), administrators=administrators)


class _Place:
    """Where in the text something stands; tomllib does not tell."""

    def __init__(self, text: str, kind: str, number: int = 0, key: str = "") -> None:
        self._lines = text.splitlines()
        self._kind, self._number, self._key = kind, number, key

    def refuse(self, reason: str) -> NoReturn:
        raise ConfigurationError(f"line {self._line()}: {reason}")

    def _line(self) -> int:
        """Return the line of the key in its table; where it cannot be found, that of the table."""
        header = re.compile(rf"\s*\[\[?\s*[\"']?{re.escape(self._kind)}[\"']?\s*\]\]?")
        found = [number for number, line in enumerate(self._lines, 1) if header.match(line)]
        begin = found[self._number] if self._number < len(found) else 1
        key = re.compile(rf"\s*[\"']?{re.escape(self._key or self._kind)}[\"']?\s*=")
        for number in range(begin if self._key or not found else len(self._lines), len(self._lines)):
            if re.match(r"\s*\[\[?\s*\w", self._lines[number]) and "=" not in self._lines[number]:
                break
            if key.match(self._lines[number]):
                return number + 1
        if not found and key.match(self._lines[0] if self._lines else ""):
            return 1
        return begin


class _Table:
    """One table of the file, whose values are checked as they are taken."""

    def __init__(self, text: str, kind: str, number: int, values: Mapping[str, Any]) -> None:
        self._text, self._kind, self.number, self._values = text, kind, number, values
        for key in values:
            if key not in _KEYS[kind]:
                self.refuse(key, f"{key} is not known; there are {', '.join(sorted(_KEYS[kind]))}")

    def refuse(self, key: str, reason: str) -> NoReturn:
        _Place(self._text, self._kind, self.number, key).refuse(reason)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._values.get(key, [])
        if not isinstance(values, list) or not all(isinstance(one, str) and one for one in values):
            self.refuse(key, f"{key} has to be a list of texts")
        if key in self and not values:
            self.refuse(key, f"{key} is empty; leave it out, or name some")
        return tuple(values)

    def parsed(self, key: str, parse: Callable[[str], Any]) -> tuple[Any, ...]:
        try:
            return tuple(parse(one) for one in self.texts(key))
        except (InvalidArgument, ValueError) as error:
            self.refuse(key, f"{key}: {error}")

    def text(self, key: str, default: str) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 64:
            self.refuse(key, f"{key} has to be a text of 1 to 64 characters")
        return value

    def flag(self, key: str) -> bool:
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            self.refuse(key, f"{key} has to be true or false")
        return value

    def number_above_0(self, key: str, *, whole: bool) -> Any:
        value = self._values.get(key)
        if value is None:
            return None
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
            self.refuse(key, f"{key} has to be a {'whole ' if whole else ''}number above 0")
        return value


def _subject(table: _Table) -> Subject:
    if not any(key in table for key in (*_SUBJECT, "anyone")):
        table.refuse("", f"it says for whom it is by none of {', '.join(_SUBJECT)}, anyone = true")
    if table.flag("anyone") and any(key in table for key in _SUBJECT[:3]):
        table.refuse("anyone", "anyone = true, and identities, domains or groups besides; leave one out")
    return Subject(
        identities=frozenset(table.texts("identities")),
        domains=frozenset(one.lower().removeprefix("@") for one in table.texts("domains")),
        groups=frozenset(table.texts("groups")),
        authenticators=frozenset(table.texts("authenticators")),
        anyone=table.flag("anyone"),
    )


def _rule(table: _Table) -> Rule:
    who = _subject(table)
    if not who.anyone and "anyone" in table and not any(key in table for key in _SUBJECT):
        table.refuse("anyone", "anyone = false is for nobody")
    if "targets" not in table:
        table.refuse(
            "",
            "it has no targets, so that no session could be connected; say which, such as "
            'targets = ["10.0.1.0/24:5000-5010"]',
        )
    return Rule(
        name=table.text("name", f"rule {table.number + 1}"),
        who=who,
        roles=frozenset(table.parsed("roles", Role)) or frozenset(Role),
        targets=table.parsed("targets", Destination.parse),
        dials=table.parsed("dials", Destination.parse),
        max_sessions=table.number_above_0("max_sessions", whole=True),
        max_channels=table.number_above_0("max_channels", whole=True),
        max_rate_mbps=table.number_above_0("max_rate_mbps", whole=False),
        max_lifetime_s=table.number_above_0("max_lifetime_s", whole=False),
    )
