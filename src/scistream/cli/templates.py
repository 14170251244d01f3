"""What a supervised command is told of its session: by its environment, and by words in its arguments.

In an argument ``{name}`` is replaced; a brace itself is written twice. Names are checked before anything is
started; how many listeners there are is known only when the gateway has answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import ConfigurationError

_WORD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def check_names(arguments: Sequence[str], role: Role) -> None:
    """Refuse arguments that name what a command of `role` is not told.

    Raises
    ------
    ConfigurationError
        A name is unknown, or a brace stands alone.
    """
    noun = _noun(role)
    known = {"uid", "role", "host", "port", noun, f"{noun}s" if role is Role.CONSUMER else "addresses"}
    for argument in arguments:
        for match in _WORD.finditer(argument):
            name = match[1]
            if match[0] in {"{{", "}}"} or name in known or re.fullmatch(rf"{noun}\d{{1,4}}", name or ""):
                continue
            what = "a single brace" if name is None else f"{{{name}}}"
            raise ConfigurationError(
                f"{what} in the argument {argument!r} means nothing for role {role}; there are "
                f"{', '.join(f'{{{one}}}' for one in sorted(known))}, {{{noun}0}}, {{{noun}1}}, …; "
                "write {{ and }} for braces"
            )


def values(uid: str, role: Role, endpoints: Sequence[Endpoint]) -> dict[str, str]:
    """Return name → value for a command of `role`.

    Parameters
    ----------
    endpoints : sequence of Endpoint
        PRODUCER: where the command listens; CONSUMER: the listeners that it connects to. Not empty.
    """
    noun = _noun(role)
    plural = "listeners" if role is Role.CONSUMER else "addresses"
    return {
        "uid": uid,
        "role": role.value,
        "host": endpoints[0].host,
        "port": str(endpoints[0].port),
        noun: str(endpoints[0]),
        plural: ",".join(map(str, endpoints)),
        **{f"{noun}{number}": str(endpoint) for number, endpoint in enumerate(endpoints)},
    }


def fill(arguments: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Return `arguments` with every ``{name}`` replaced by its value in `known`.

    Raises
    ------
    ConfigurationError
        A name has no value: the session has fewer channels.
    """

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in known:
            raise ConfigurationError(
                f"{{{match[1]}}} is not there: the session has {_count(known)}, numbered from 0"
            )
        return known[match[1]]

    return [_WORD.sub(replace, argument) for argument in arguments]


def environment(known: Mapping[str, str]) -> dict[str, str]:
    """Return the same as environment variables.

    ``SCISTREAM_UID``, ``SCISTREAM_ROLE``; for a consumer ``SCISTREAM_LISTENERS`` (with commas),
    ``SCISTREAM_LISTENER_HOST`` and ``_PORT`` of the first, ``SCISTREAM_LISTENER_0``, …; for a producer the
    same with ``ADDRESSES`` and ``ADDRESS``.
    """
    noun = _noun(Role(known["role"]))
    renamed = {"host": f"{noun}_host", "port": f"{noun}_port"}
    return {
        "SCISTREAM_" + re.sub(r"(\d+)$", r"_\1", renamed.get(name, name)).upper(): value
        for name, value in known.items()
        if name != noun
    }


def _noun(role: Role) -> str:
    return "listener" if role is Role.CONSUMER else "address"


def _count(known: Mapping[str, str]) -> str:
    plural = "listeners" if known["role"] == Role.CONSUMER else "addresses"
    count = known[plural].count(",") + 1
    return f"1 {_noun(Role(known['role']))}" if count == 1 else f"{count} {plural}"
