"""``s2uc check-auth``: who you are, where, and until when."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from scistream.cli.completion import complete_profiles
from scistream.cli.config_file import config_table
from scistream.cli.facilities import find_facility, login_settings
from scistream.cli.output import print_json
from scistream.cli.s2uc import parameters
from scistream.cli.s2uc.sessions import at_each
from scistream.core.endpoint import Endpoint
from scistream.errors import AuthenticationError, ConfigurationError, InvalidArgument, SciStreamError

if TYPE_CHECKING:
    from scistream.client.aio import Facility
    from scistream.client.login import Login

_PORT = 5000


@click.command("check-auth")
@click.argument("facility", required=False, shell_complete=complete_profiles)
@click.option(
    "--ip", "address", default="", help="Control server by HOST or HOST:PORT, in place of FACILITY."
)
@click.option(
    "--scope", default="", help="Look at the login for this scope alone, and ask no control server."
)
@click.option("--show-token", is_flag=True, help="Print the token too. Whoever has it is you.")
@parameters.timeout(10)
@parameters.common
@click.pass_context
def check_auth(
    context: click.Context,
    facility: str | None,
    address: str,
    scope: str,
    show_token: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Say who you are at FACILITY, until when, and whether its control server lets you in.

    Without FACILITY: at all profiles; without any, what logins there are. The token is refreshed if it is
    time, and not shown. Exit code 6 if you are not let in somewhere, 4 if a control server cannot be asked.

    \b
    Example:
      s2uc check-auth aps
    """
    if sum(map(bool, (facility, address, scope))) > 1:
        raise click.UsageError("give one of FACILITY, --ip and --scope")
    names = [facility] if facility else [_server(context, address)] if address else []
    if not names and not scope:
        names = list(config_table(context, "facilities"))
    failures: list[SciStreamError] = []
    if names:
        found = [_at(context, name, timeout_s, failures, show_token=show_token) for name in names]
    else:
        found = _logins(scope, failures, show_token=show_token)
    if as_json:
        print_json(logins=found)
    else:
        for one in found:
            _show(one)
    if failures:
        raise failures[0]
    if not found:
        raise AuthenticationError(
            "you are not logged in anywhere, and there are no profiles; type: s2uc login --help"
        )


def _server(context: click.Context, address: str) -> str:
    """Return the profile whose control server has this address; else the address itself."""
    for name, profile in config_table(context, "facilities").items():
        known = profile.get("address", "") if isinstance(profile, dict) else ""
        try:
            endpoint = Endpoint.parse(known.rpartition("://")[2])
        except InvalidArgument:
            continue
        if address in {endpoint.host, str(endpoint)}:
            return str(name)
    try:
        Endpoint.parse(address.rpartition("://")[2])
    except InvalidArgument:
        host = f"[{address}]" if address.count(":") > 1 and "[" not in address else address
        return f"{host}:{_PORT}"
    return address


def _at(
    context: click.Context,
    name: str,
    timeout_s: float,
    failures: list[SciStreamError],
    *,
    show_token: bool,
) -> dict[str, Any]:
    """Return how the user stands at one facility; add what is wrong to `failures`."""
    about: dict[str, Any] = {"facility": name}
    try:
        facility = find_facility(context, name, certificate=None, token_file=None)
        token = facility.token() if callable(facility.token) else facility.token
        about |= {"server": str(facility.endpoint), **_means(context, name, facility)}
        if show_token and token:
            about["token"] = token
        outcome = at_each([facility], lambda client: client.status(timeout_s=timeout_s))[0]
        if isinstance(outcome, BaseException):
            raise outcome
        about["accepted"] = True
    except SciStreamError as error:
        about |= {"accepted": False if isinstance(error, AuthenticationError) else None, "error": str(error)}
        failures.append(error)
    return about


def _means(context: click.Context, name: str, facility: Facility) -> dict[str, Any]:
    """Return by what the user is known there."""
    if callable(facility.token):
        settings = login_settings(context, name)
        login = None if settings is None else _store().find(settings)
        return {} if login is None else _about(login)
    if facility.client_certificate is not None:
        return {"by": "client certificate", **_certificate(facility.client_certificate[0])}
    if facility.token is None:
        return {"by": "nothing"}
    return {"by": "S2UC_TOKEN" if os.environ.get("S2UC_TOKEN") else "token file"}


def _logins(scope: str, failures: list[SciStreamError], *, show_token: bool) -> list[dict[str, Any]]:
    """Return the logins that are stored, or the one for a scope."""
    from scistream.client.login import StoredToken, globus_scope

    store = _store()
    found = store.all()
    if scope:
        wanted = {scope}
        with contextlib.suppress(ConfigurationError):  # one of an OpenID provider
            wanted.add(globus_scope(scope))
        found = [one for one in found if one.settings.scope in wanted]
        if not found:
            raise AuthenticationError(
                f"you are not logged in for the scope {scope}; type: s2uc login --scope {scope}"
            )
    logins = []
    for one in found:
        try:
            token = StoredToken(one.settings, "s2uc login", store)()
        except SciStreamError as error:
            failures.append(error)
            logins.append({**_about(one), "error": str(error)})
            continue
        about = _about(store.find(one.settings) or one)
        logins.append({**about, "token": token} if show_token else about)
    return logins


def _store() -> Any:
    from scistream.client.login import LoginStore

    return LoginStore()


def _about(login: Login) -> dict[str, Any]:
    return {
        "by": login.settings.provider,
        "username": login.username,
        "scope": login.settings.scope,
        "expires_at": login.expires_at,
        "refreshes": bool(login.refresh_token),
    }


def _certificate(pem: bytes) -> dict[str, Any]:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem)
    return {
        "username": certificate.subject.rfc4514_string(),
        "expires_at": certificate.not_valid_after_utc.timestamp(),
        "refreshes": False,
    }


def _show(one: dict[str, Any]) -> None:
    where = f"{one['facility']} ({one['server']})" if "server" in one else one.get("facility", "")
    who = one.get("username") or "known"
    click.echo(
        f"{where}: {who} by {one['by']}" if where and "by" in one else where or f"{who} by {one['by']}"
    )
    if "expires_at" in one:
        left_s = one["expires_at"] - time.time()
        until = datetime.fromtimestamp(one["expires_at"], UTC)
        then = ", refreshed by itself" if one["refreshes"] else ""
        click.echo(f"  until    {until:%Y-%m-%d %H:%M:%S} UTC ({max(0.0, left_s):.0f} s){then}")
    if one.get("accepted"):
        click.echo("  let in   yes")
    if "error" in one:
        click.echo(f"  let in   {'no' if one.get('accepted') is False else 'not known'}: {one['error']}")
    if "token" in one:
        click.echo(f"Access Token for scope '{one.get('scope', '')}': {one['token']}")
