"""From what the user types to a facility: an address, or the name of a profile in the configuration file.

The file is the one given with ``--config``, or the user's own. A profile::

    [facilities.aps]
    address = "gateway.aps.example:5000"
    certificate = "aps.crt"       # relative to the configuration file
    token_file = "aps.token"      # mode 0600
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scistream.cli.options import config_path, config_table, user_config_path
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError

if TYPE_CHECKING:
    from scistream.client import Facility

#: Where a control server is looked for if nothing else is said.
LOCAL_SERVER = "localhost:5000"

_KEYS = {"address", "certificate", "token_file"}


def find_facility(
    context: click.Context,
    text: str,
    *,
    certificate: Path | None,
    token_file: Path | None,
    token_variables: Sequence[str] = ("S2UC_TOKEN",),
) -> Facility:
    """Return the facility that `text` means; what is given on the command line wins over the profile.

    Parameters
    ----------
    text : str
        ``host:port``, or the name of a profile.
    token_variables : sequence of str
        Environment variables that may hold the token; the first one set is taken.

    Raises
    ------
    ConfigurationError
        There is no such profile, or one of its values or files cannot be used.
    """
    from scistream.auth.shared_key import read_token_file
    from scistream.client import Facility

    profile = _profile(context, text)
    if certificate is None and "certificate" in profile:
        certificate = _path(context, profile["certificate"])
    token = next((os.environ[name] for name in token_variables if os.environ.get(name)), None)
    if token_file is None and token is None and "token_file" in profile:
        token_file = _path(context, profile["token_file"])
    if token_file is not None:
        token = read_token_file(token_file)
    return Facility(
        endpoint=Endpoint.parse(profile.get("address", text)),
        server_certificate_pem=None if certificate is None else _read(certificate),
        token=token,
    )


def find_facilities(
    context: click.Context, texts: Sequence[str], certificates: Sequence[Path], token_files: Sequence[Path]
) -> list[Facility]:
    """Return several facilities; certificates and token files are one for all, or one for each in order."""
    for what, values in (("--certificate", certificates), ("--token-file", token_files)):
        if len(values) not in {0, 1, len(texts)}:
            raise click.UsageError(f"{what} is given {len(values)} times for {len(texts)} control servers")
    return [
        find_facility(context, text, certificate=certificate, token_file=token_file)
        for text, certificate, token_file in zip(
            texts, _spread(certificates, len(texts)), _spread(token_files, len(texts)), strict=True
        )
    ]


def find_servers(context: click.Context, given: Sequence[str]) -> tuple[str, ...]:
    """Return the control servers that are meant: those `given`, or all profiles, or the one on this machine.

    Raises
    ------
    ConfigurationError
        The configuration file cannot be used.
    """
    return tuple(given or config_table(context, "facilities") or (LOCAL_SERVER,))


def _path(context: click.Context, text: str) -> Path:
    """Return the file that a profile names; relative paths start from the configuration file's directory."""
    file = config_path(context)
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{text} cannot be found: {error}") from error
    return path if file is None else file.parent / path


def _spread(values: Sequence[Path], count: int) -> list[Path | None]:
    if not values:
        return [None] * count
    return [*values] * (count if len(values) == 1 else 1)


def _profile(context: click.Context, name: str) -> Mapping[str, str]:
    profiles = config_table(context, "facilities")
    profile: Any = profiles.get(name)
    if profile is None:
        if ":" not in name:
            raise ConfigurationError(
                f"{name!r} is neither HOST:PORT nor a profile; {_where_profiles_are(context, profiles)}; "
                f'a profile is a table [facilities.{name}] with address = "HOST:PORT", '
                'certificate = "FILE.crt", token_file = "FILE.token"'
            )
        return {}
    if not isinstance(profile, dict):
        raise ConfigurationError(f"[facilities] {name} has to be a table: [facilities.{name}]")
    for key, value in profile.items():
        if key not in _KEYS or not isinstance(value, str):
            raise ConfigurationError(
                f"[facilities.{name}] {key} = {value!r}: known are {', '.join(sorted(_KEYS))}, each a text"
            )
    if "address" not in profile:
        raise ConfigurationError(f"[facilities.{name}] has no address")
    return profile


def _where_profiles_are(context: click.Context, profiles: Mapping[str, Any]) -> str:
    file = config_path(context)
    if file is not None:
        return f"profiles in {file}: {', '.join(sorted(profiles)) or 'none'}"
    own = user_config_path()
    return f"no file with profiles was read: {f'there is no {own}, and ' if own else ''}no --config FILE"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
