"""From what the user types to a facility: an address, or the name of a profile in the configuration file.

A profile::

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

from scistream.cli.options import config_directory, config_table
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError

if TYPE_CHECKING:
    from scistream.client import Facility

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

    # gRPC's own messages about connections say nothing that our errors do not
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    profile = _profile(context, text)
    here = config_directory(context)
    if certificate is None and "certificate" in profile:
        certificate = here / profile["certificate"]
    token = next((os.environ[name] for name in token_variables if os.environ.get(name)), None)
    if token_file is None and token is None and "token_file" in profile:
        token_file = here / profile["token_file"]
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


def _spread(values: Sequence[Path], count: int) -> list[Path | None]:
    if not values:
        return [None] * count
    return [*values] * (count if len(values) == 1 else 1)


def _profile(context: click.Context, name: str) -> Mapping[str, str]:
    profiles = config_table(context, "facilities")
    profile: Any = profiles.get(name)
    if profile is None:
        if ":" not in name:
            known = ", ".join(sorted(profiles)) or "none; --config FILE names the file that has them"
            raise ConfigurationError(f"{name!r} is neither host:port nor a known facility (known: {known})")
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
