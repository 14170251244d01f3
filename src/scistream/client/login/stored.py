"""A stored login as a source of tokens: refreshed in silence before it expires."""

from __future__ import annotations

import logging
import threading
import time

from scistream.client.login.settings import LoginSettings
from scistream.client.login.store import Login, LoginStore
from scistream.errors import AuthenticationError, PeerError

logger = logging.getLogger(__name__)

# A token that has less left than this is replaced: it has to last for a call that waits.
_EARLY_S = 60.0


class StoredToken:
    """Returns, whenever it is called, an access token that has not expired. Blocks while it is refreshed.

    Parameters
    ----------
    settings : LoginSettings
        Which login.
    command : str
        What the user types to log in, for messages.
    store : LoginStore, optional
        Instead of the user's own.

    Raises
    ------
    ConfigurationError
        The store cannot be used.
    AuthenticationError
        Nobody has logged in.
    """

    def __init__(self, settings: LoginSettings, command: str, store: LoginStore | None = None) -> None:
        self._settings = settings
        self._command = command
        self._store = store or LoginStore()
        self._one_at_a_time = threading.Lock()
        login = self._store.find(settings)
        if login is None:
            raise AuthenticationError(f"you are not logged in; type: {command}")
        self._login = login

    def __call__(self) -> str:
        """Return the token.

        Raises
        ------
        AuthenticationError
            The login is over; the message says the command to type.
        PeerError
            The provider cannot be asked, and the token has expired.
        """
        with self._one_at_a_time:
            if _is_due(self._login):
                self._login = refreshed(self._settings, self._command, self._store)
            return self._login.access_token


def refreshed(settings: LoginSettings, command: str, store: LoginStore) -> Login:
    """Return the login for `settings`, with a new token where it is time for one.

    Raises
    ------
    AuthenticationError
        Nobody has logged in, or the login is over; the message says the command to type.
    PeerError
        The provider cannot be asked, and the token has expired.
    """
    with store.locked():
        login = store.find(settings)
        if login is None:
            raise AuthenticationError(f"you are not logged in any more; type: {command}")
        if not _is_due(login):  # another program has been faster
            return login
        over = f"your login by {settings.provider} has expired; type: {command}"
        if not login.refresh_token:
            if login.expires_at > time.time():
                return login
            raise AuthenticationError(over)
        try:
            new = _refresh(login)
        except AuthenticationError as error:
            logger.debug("%s", error)
            raise AuthenticationError(over) from error
        except PeerError:
            if login.expires_at > time.time():
                return login
            raise
        store.put(new)
        return new


def log_out(login: Login) -> None:
    """Withdraw the tokens of `login` at its provider.

    Raises
    ------
    PeerError
        The provider cannot be asked.
    """
    if login.settings.kind == "globus":
        from scistream.client.login.globus import GlobusLogin

        globus = GlobusLogin(login.settings, login)
        try:
            globus.revoke()
        finally:
            globus.close()
        return
    from scistream.client.login.openid import OpenIDLogin

    OpenIDLogin(login.settings).revoke(login)


def _refresh(login: Login) -> Login:
    if login.settings.kind == "globus":
        from scistream.client.login.globus import GlobusLogin

        globus = GlobusLogin(login.settings, login)
        try:
            return globus.refresh()
        finally:
            globus.close()
    from scistream.client.login.openid import OpenIDLogin

    return OpenIDLogin(login.settings).refresh(login)


def _is_due(login: Login) -> bool:
    return login.expires_at - time.time() < _EARLY_S
