"""``s2uc trust``: trust on first use, with a fingerprint that somebody has compared. Never silent."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import Any

import click

from scistream.cli.completion import complete_profiles
from scistream.cli.facilities import find_address
from scistream.cli.s2uc import parameters
from scistream.cli.show import show_pairs
from scistream.core.endpoint import Endpoint
from scistream.errors import AuthenticationError, ConfigurationError


@click.command()
@click.argument("server", shell_complete=complete_profiles)
@click.option(
    "--fingerprint",
    "expected",
    help="SHA-256 fingerprint that the operator has told you; it is compared, and nothing is asked.",
)
@parameters.timeout()
@parameters.common
@click.pass_context
def trust(context: click.Context, server: str, expected: str | None, timeout_s: float, as_json: bool) -> None:
    """Trust the certificate that SERVER (host:port, or a profile) shows now, once you have compared it.

    Its fingerprint is shown, and you are asked whether it is the one that the operator of SERVER has told
    you, by another way than this network. From then on the certificate is used wherever none is given for
    that address, and another one is refused. One that is not for the name by which you call SERVER, or not
    valid now, is not trusted.

    \b
    Example:
      s2uc trust aps.example:5000
      s2uc trust aps.example:5000 --fingerprint 9F:86:D0:81:…
    The operator has the fingerprint from:
      openssl x509 -in server.crt -noout -fingerprint -sha256
    """
    from scistream.client.handshake import ask_certificate, check_server
    from scistream.client.known_servers import (
        find_known_server,
        fingerprint,
        parse_fingerprint,
        store_known_server,
    )

    endpoint = find_address(context, server)
    wanted = None if expected is None else parse_fingerprint(expected)
    known = find_known_server(endpoint)

    async def ask() -> bytes:
        shown = await ask_certificate(endpoint, timeout_s=timeout_s)
        await check_server(endpoint, shown, timeout_s=timeout_s)
        return shown

    shown = asyncio.run(ask())
    description = {"address": str(endpoint), "fingerprint": fingerprint(shown), **_describe(shown, endpoint)}
    if known is not None and fingerprint(known) != fingerprint(shown):
        description["trusted_until_now"] = fingerprint(known)
    if wanted is not None:
        if wanted != fingerprint(shown):
            raise AuthenticationError(
                f"control server {endpoint} shows a certificate with the fingerprint {fingerprint(shown)}, "
                f"and you expect {wanted}. Nothing is trusted: somebody may be in between; ask its operator"
            )
    elif known is None or fingerprint(known) != fingerprint(shown):
        _ask(endpoint, description)
    path = store_known_server(endpoint, shown)
    show_pairs({**description, "trusted": True, "file": str(path)}, as_json=as_json)


def _ask(endpoint: Endpoint, description: dict[str, Any]) -> None:
    """Ask on the terminal whether the certificate is the right one; no terminal and no answer are a no."""
    if not sys.stdin.isatty():
        before = description.get("trusted_until_now")
        raise AuthenticationError(
            f"nobody can be asked whether {endpoint} is to be trusted: no terminal. It shows a certificate "
            f"with the fingerprint {description['fingerprint']}"
            + (f"; {before} was trusted until now" if before else "")
            + "; compare it with what its operator tells you, and give it with --fingerprint"
        )
    for name, value in description.items():
        click.echo(f"{name:18} {', '.join(value) if isinstance(value, list) else value}", err=True)
    if "trusted_until_now" in description:
        click.echo(
            "The certificate has CHANGED. Somebody may be in between: ask the operator first.", err=True
        )
    if not click.confirm("Is this the fingerprint that its operator has told you?", default=False, err=True):
        raise AuthenticationError(f"{endpoint} is not trusted; nothing has changed")


def _describe(pem: bytes, endpoint: Endpoint) -> dict[str, Any]:
    """Return the names and dates of the certificate."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = [certificate.subject.rfc4514_string()]
        try:
            alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names += [str(name.value) for name in alternative]
        except x509.ExtensionNotFound:
            pass
    except ValueError as error:
        raise ConfigurationError(f"{endpoint} shows a certificate that cannot be read: {error}") from error
    return {
        "names": [name.encode("unicode_escape").decode() for name in names],
        "valid_from": _date(certificate.not_valid_before_utc),
        "valid_until": _date(certificate.not_valid_after_utc),
    }


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
