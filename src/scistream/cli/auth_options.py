"""The options of ``s2cs start`` that say how users are known, and the authenticators' settings by them.

A secret comes from a file of mode 0600 or from the environment: what stands on the command line, every user
of the host can read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from scistream.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)


def _refuse_in_argv(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Take a secret from the environment only, and out of it."""
    variables = parameter.envvar if isinstance(parameter.envvar, list) else [str(parameter.envvar)]
    source = context.get_parameter_source(str(parameter.name))
    if value is None or source is ParameterSource.ENVIRONMENT:
        for variable in variables:
            os.environ.pop(variable, None)  # data servers need not inherit it
        return value
    option = parameter.opts[0]
    raise ConfigurationError(
        f"{option} is a secret: other users of this host can read command lines and files for everybody; "
        f"write it into a file of mode 0600 and give {option}-file FILE, or set {variables[-1]}"
    )


# Authenticator → setting → option and what click is told of it.
_SETTINGS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "shared-key": {
        "file": (
            "--auth-file",
            {"type": _FILE, "help": "For shared-key: hashes of the tokens; see s2cs token."},
        ),
    },
    "globus": {
        "client_id": (
            "--client-id",
            {"metavar": "ID", "help": "For globus: this service's registration with Globus Auth."},
        ),
        "client_secret": (
            "--client-secret",
            {
                "metavar": "SECRET",
                "callback": _refuse_in_argv,
                "help": "Its secret: by the environment only, or by the next option.",
            },
        ),
        "client_secret_file": ("--client-secret-file", {"type": _FILE, "help": "Its secret, mode 0600."}),
        "scope": (
            "--globus-scope",
            {"metavar": "SCOPE", "help": "What a token has to be good for  [default: that of --client-id]"},
        ),
    },
    "oidc": {
        "issuer": (
            "--oidc-issuer",
            {"metavar": "URL", "help": "For oidc: the OpenID provider, as it calls itself."},
        ),
        "audience": (
            "--oidc-audience",
            {"metavar": "NAME", "help": "Whom a token has to be meant for: this service's name there."},
        ),
        "scope": (
            "--oidc-scope",
            {"metavar": "SCOPE", "help": "What a token has to be good for  [default: anything]"},
        ),
        "client_id": (
            "--oidc-client-id",
            {
                "metavar": "ID",
                "help": "This service's registration there, to ask about tokens that cannot be verified here "
                "(RFC 7662)  [default: they are refused]",
            },
        ),
        "client_secret": (
            "--oidc-client-secret",
            {
                "metavar": "SECRET",
                "callback": _refuse_in_argv,
                "help": "Its secret: by the environment only, or by the next option.",
            },
        ),
        "client_secret_file": ("--oidc-client-secret-file", {"type": _FILE, "help": "The same, mode 0600."}),
        "introspect": (
            "--oidc-introspect",
            {
                "is_flag": True,
                "default": None,
                "help": "Ask about every token, so that one that is withdrawn is refused within 30 s.",
            },
        ),
        "ca": (
            "--oidc-ca",
            {"type": _FILE, "help": "Authorities of the provider's certificate  [default: the usual ones]"},
        ),
    },
    "mtls": {
        "ca": (
            "--client-ca",
            {"type": _FILE, "help": "For mtls: authorities that users' certificates have to come from, PEM."},
        ),
        "crl": (
            "--client-crl",
            {
                "type": _FILE,
                "help": "Certificates that are withdrawn, PEM or DER; read again when it changes.",
            },
        ),
    },
}

_NAMES = {
    (authenticator, setting): f"{authenticator.replace('-', '_')}_{setting}"
    for authenticator, settings in _SETTINGS.items()
    for setting in settings
}

AUTH_OPTIONS: tuple[Callable[[F], F], ...] = tuple(
    click.option(option, _NAMES[authenticator, setting], **rest)
    for authenticator, settings in _SETTINGS.items()
    for setting, (option, rest) in settings.items()
)


def with_auth_settings(command: F) -> F:
    """Hand `command` the settings that were given, as ``auth_settings``: authenticator → name → value."""

    @functools.wraps(command)
    def gathered(*arguments: Any, **values: Any) -> Any:
        given: dict[str, dict[str, str]] = {}
        for (authenticator, setting), name in _NAMES.items():
            value = values.pop(name)
            if value is not None:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                given.setdefault(authenticator, {})[setting] = text
        return command(*arguments, auth_settings=given, **values)

    return gathered  # type: ignore[return-value]


def find_authenticators(
    wanted: Sequence[str], given: Mapping[str, Mapping[str, str]], problems: list[str]
) -> dict[str, Mapping[str, str]]:
    """Return the authenticators that are `wanted`, with their settings; add what is wrong to `problems`."""
    from scistream.auth.chain import Chain
    from scistream.auth.registry import load_authenticator

    if not wanted:
        problems.append(
            "who may use this gateway is not said (--auth); make a token with 's2cs token NAME "
            "--auth-file tokens.toml --out NAME.token' and start with '--auth shared-key --auth-file "
            "tokens.toml' (or '--auth none --listen 127.0.0.1:5000', for tests on this machine)"
        )
    found: dict[str, Mapping[str, str]] = {}
    loaded = []
    for name in dict.fromkeys(wanted):
        # one that somebody else has written takes a file at most
        kind = name if name in _SETTINGS or name == "none" else "shared-key"
        found[name] = given.get(kind, {})
        try:
            loaded.append(load_authenticator(name, found[name]))
        except ConfigurationError as error:
            problems.append(f"--auth {name}: {error}")
    for name, settings in given.items():
        if not any(used is settings for used in found.values()):
            options = ", ".join(_SETTINGS[name][setting][0] for setting in settings)
            problems.append(
                f"{options}: for --auth {name}, which is not asked for; add it, or leave this out"
            )
    if loaded and len(loaded) == len(found):
        try:
            Chain(loaded)
        except ConfigurationError as error:
            problems.append(f"--auth {' --auth '.join(found)}: {error}")
    return found
