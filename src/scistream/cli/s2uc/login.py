"""``s2uc login`` and ``logout``: by Globus, or any OpenID provider."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from scistream.cli.completion import complete_profiles
from scistream.cli.config_file import config_table
from scistream.cli.facilities import login_settings
from scistream.cli.output import print_json
from scistream.cli.running import stopped_by_signals
from scistream.cli.s2uc import parameters
from scistream.errors import AuthenticationError, ConfigurationError

if TYPE_CHECKING:
    from scistream.client.login import Login, LoginSettings
    from scistream.client.login.openid import OpenIDLogin

logger = logging.getLogger(__name__)

_WAYS = ("auto", "browser", "paste", "device")

_SCOPE = click.option("--scope", default="", help="For Globus: the scope, or the UUID of the service.")
_CLIENT_ID = click.option("--client-id", default="", help="This program's registration [the profile's].")


@dataclass(frozen=True, slots=True)
class Place:
    """A login that is wanted, and what the user types for it."""

    settings: LoginSettings
    command: str


@click.command()
@click.argument("facility", required=False, shell_complete=complete_profiles)
@_SCOPE
@_CLIENT_ID
@click.option("--issuer", default="", help="OpenID provider, where there is no profile.")
@click.option("--resource", default="", help="Whom its token is to be meant for (RFC 8707).")
@click.option(
    "--how",
    type=click.Choice(_WAYS),
    default="auto",
    show_default=True,
    help="browser: one on this machine comes back by itself. paste: the code is pasted. device: a code is "
    "typed in any browser, for hosts without one. Globus: always paste.",
)
@click.option("--force", is_flag=True, help="Log in anew even if you are logged in.")
@parameters.timeout(300)
@parameters.common
@click.pass_context
def login(
    context: click.Context,
    facility: str | None,
    scope: str,
    client_id: str,
    issuer: str,
    resource: str,
    how: str,
    force: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Log in at FACILITY's provider: Globus, or the OpenID provider that its profile names.

    Without FACILITY: wherever a profile asks for a login. Tokens are kept in a file that only you can read,
    and refreshed in silence. Facilities that ask for the same share one login.

    \b
    A profile, with what the facility's operator tells you:
      [facilities.aps]
      address = "aps.example:5000"
      authenticator = "globus"
      client_id = "UUID of this program"
      scope = "UUID of the facility's service"
      [facilities.lab]
      address = "lab.example:5000"
      authenticator = "oidc"
      issuer = "https://login.lab.example"
      client_id = "s2uc"
      scope = "openid offline_access scistream"

    \b
    Example:
      s2uc login aps
      s2uc login lab --how device
    """
    with stopped_by_signals():
        done = [
            _log_in(place, how=how, force=force, timeout_s=timeout_s, quiet=as_json)
            for place in _places(
                context, facility, scope=scope, client_id=client_id, issuer=issuer, resource=resource
            )
        ]
    if as_json:
        print_json(logins=[_about(one) for one in done])


@click.command()
@click.argument("facility", required=False, shell_complete=complete_profiles)
@click.option("--forget", is_flag=True, help="Forget the tokens without withdrawing them.")
@parameters.common
@click.pass_context
def logout(context: click.Context, facility: str | None, forget: bool, as_json: bool) -> None:
    """Log out at FACILITY's provider, or everywhere: tokens are withdrawn there and forgotten here.

    A token that could not be withdrawn is not forgotten: try again, or give --forget.

    \b
    Example:
      s2uc logout aps
    """
    from scistream.client.login import LoginStore, log_out

    store = LoginStore()
    wanted = None if facility is None else _place(context, facility).settings.key
    found = [one for one in store.all() if wanted in (None, one.settings.key)]
    gone = []
    for one in found:
        with store.locked():
            current = store.find(one.settings)  # another program may have refreshed it
            if current is None:
                continue
            if not forget:
                log_out(current)
            store.remove(one.settings)
        gone.append(one.settings.provider)
    if as_json:
        print_json(logged_out=gone)
    else:
        click.echo("Successfully logged out!" if gone else "You were not logged in.")


def _places(
    context: click.Context, facility: str | None, *, scope: str, client_id: str, issuer: str, resource: str
) -> list[Place]:
    """Return the logins that are wanted, each once."""
    from scistream.client.login import LoginSettings

    if facility is not None:
        if issuer or resource:
            raise click.UsageError("give either FACILITY, whose profile says the issuer, or --issuer")
        return [_place(context, facility, scope=scope, client_id=client_id)]
    if scope or issuer or client_id:
        kind = "oidc" if issuer else "globus"
        settings = LoginSettings(
            kind=kind, client_id=client_id, scope=scope, issuer=issuer, resource=resource
        )
        words = [("--issuer", issuer), ("--scope", scope), ("--client-id", client_id)]
        return [Place(settings, " ".join(["s2uc login", *(f"{a} {b}" for a, b in words if b)]))]
    found: dict[str, Place] = {}
    for name in config_table(context, "facilities"):
        if (one := login_settings(context, name)) is not None:
            found.setdefault(one.key, Place(one, f"s2uc login {name}"))
    if not found:
        raise ConfigurationError(
            "no profile asks for a login; 's2uc login --help' shows how one does, or give --scope and "
            "--client-id (Globus), or --issuer, --client-id and --scope (OpenID Connect)"
        )
    return list(found.values())


def _place(context: click.Context, facility: str, **given: str) -> Place:
    settings = login_settings(context, facility, **given)
    if settings is None:
        raise ConfigurationError(
            f'no login is made at {facility}: its profile has no authenticator = "globus" or "oidc"; '
            "'s2uc login --help' shows one that has"
        )
    return Place(settings, f"s2uc login {facility}")


def _log_in(place: Place, *, how: str, force: bool, timeout_s: float, quiet: bool) -> Login:
    from scistream.client.login import LoginStore, refreshed

    store = LoginStore()
    if not force and store.find(place.settings) is not None:
        try:
            present = refreshed(place.settings, place.command, store)
        except AuthenticationError as error:
            logger.debug("%s", error)
        else:
            if not quiet:
                click.echo("You are already logged in, to try different credentials please log out!")
            return present
    if not quiet:
        click.echo(f"To obtain token for the scope, {place.settings.scope}", err=True)
    if place.settings.kind == "globus":
        made = _by_globus(place.settings)
    else:
        made = _by_openid(place.settings, how, timeout_s)
    with store.locked():
        store.put(made)
    if not quiet:
        click.echo(f"Logged in as {made.username or 'somebody'} by {place.settings.provider}")
    return made


def _by_globus(settings: LoginSettings) -> Login:
    from scistream.client.login.globus import GlobusLogin

    def ask(url: str) -> str:
        click.echo(f"Please authenticate with Globus here:\n{url}", err=True)
        return _pasted("Enter the resulting Authorization Code here")

    globus = GlobusLogin(settings, ask_code=ask)
    try:
        return globus.log_in()
    finally:
        globus.close()


def _by_openid(settings: LoginSettings, how: str, timeout_s: float) -> Login:
    from scistream.client.login.openid import OpenIDLogin

    client = OpenIDLogin(settings)
    if how == "auto":
        how = "browser" if _has_browser() else "device" if client.has_device_flow else "paste"
    if how == "device":
        begun = client.begin_device()
        click.echo(f"In a browser, on any machine, open {begun.url} and enter {begun.code}", err=True)
        if begun.complete_url:
            click.echo(f"or open {begun.complete_url}", err=True)
        return client.finish_device(begun, timeout_s=timeout_s)
    return _in_browser(client, timeout_s, comes_back=how == "browser")


def _in_browser(client: OpenIDLogin, timeout_s: float, *, comes_back: bool) -> Login:
    from scistream.client.login.loopback import Loopback

    with Loopback() as loopback:
        begun = client.begin(loopback.redirect_uri)
        click.echo(f"Please authenticate here:\n{begun.url}", err=True)
        if comes_back:
            _open_browser(begun.url)
            return client.finish(begun, loopback.wait(begun.state, timeout_s))
    # nobody listens there any more, so that a browser on this machine says so at once
    click.echo(
        "At the end the browser cannot open a page of 127.0.0.1: that is right. Copy its address.", err=True
    )
    return client.finish(begun, _pasted("Enter that address, or the code in it, here"))


def _pasted(prompt: str) -> str:
    """Return what the user pastes; it is not repeated where that can be avoided."""
    return str(click.prompt(prompt, err=True, hide_input=False)).strip()


def _has_browser() -> bool:
    """Return whether a browser can be expected to open on this machine's screen."""
    import os
    import webbrowser

    if os.environ.get("SSH_CONNECTION") or not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _open_browser(url: str) -> None:
    import webbrowser

    if _has_browser() and not webbrowser.open(url):
        logger.warning("no browser could be opened; open the address yourself, on this machine")
    sys.stderr.flush()


def _about(one: Login) -> dict[str, Any]:
    return {
        "provider": one.settings.provider,
        "scope": one.settings.scope,
        "username": one.username,
        "expires_at": one.expires_at,
        "refreshes": bool(one.refresh_token),
    }
