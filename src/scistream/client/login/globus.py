"""Logins by Globus Auth: globus-sdk does them (authorisation code with PKCE, refresh, withdrawal).

Its tokens are in our store, as one login: that of the service is the one that is shown to control servers;
Globus's own, by which it knows who has logged in, is kept beside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from scistream.client.login.settings import LoginSettings
from scistream.client.login.store import Login
from scistream.errors import AuthenticationError, ConfigurationError, PeerError

_AUTH = "auth.globus.org"
_TIMEOUT_S = 10.0
_EXTRA = "type: pip install 'ministream[globus]'"


class GlobusLogin:
    """Logs in by Globus Auth. Everything blocks, bounded in time.

    Parameters
    ----------
    settings : LoginSettings
        What the login is for.
    login : Login, optional
        The one that there is.
    ask_code : callable, optional
        Takes the address where the login begins, and returns the code that the person has got there.

    Raises
    ------
    ConfigurationError
        globus-sdk is not installed.
    """

    def __init__(
        self,
        settings: LoginSettings,
        login: Login | None = None,
        ask_code: Callable[[str], str] | None = None,
    ) -> None:
        try:
            from globus_sdk import GlobusAppConfig, NativeAppAuthClient, UserApp
            from globus_sdk.transport import RequestsTransport, RetryConfig
        except ImportError as error:
            raise ConfigurationError(f"logging in by Globus needs the extra 'globus'; {_EXTRA}") from error
        self._settings = settings
        self._tokens: dict[str, dict[str, Any]] = {}
        if login is not None:
            self._tokens = {name: dict(one) for name, one in login.others.items()}
        self._login = login
        client = NativeAppAuthClient(
            settings.client_id,
            transport=RequestsTransport(http_timeout=_TIMEOUT_S),
            retry_config=RetryConfig(max_retries=1),
        )
        self._app = UserApp(
            "scistream",
            login_client=client,
            scope_requirements={
                settings.resource_server: [settings.scope],
                _AUTH: ["openid", "profile", "email"],
            },
            config=GlobusAppConfig(
                request_refresh_tokens=True,
                token_storage=_storage(self._tokens),
                login_flow_manager=_manager(client, ask_code),
                token_validation_error_handler=None,
            ),
        )

    def log_in(self) -> Login:
        """Log in, and return the login.

        Raises
        ------
        AuthenticationError
            Globus refuses the code, or somebody else has logged in than before.
        PeerError
            Globus Auth cannot be asked.
        """
        from globus_sdk import AuthClient

        with _errors():
            self._app.login(force=True)
            with AuthClient(app=self._app) as client:
                about = client.userinfo().data
        return self._made(str(about.get("preferred_username") or about.get("sub") or ""))

    def refresh(self) -> Login:
        """Return the login, with a new access token where the old one has expired or soon will.

        Raises
        ------
        AuthenticationError
            The login is over.
        PeerError
            Globus Auth cannot be asked.
        """
        with _errors():
            self._app.get_authorizer(self._settings.resource_server).get_authorization_header()
        return self._made("" if self._login is None else self._login.username)

    def revoke(self) -> None:
        """Withdraw all tokens.

        Raises
        ------
        PeerError
            Globus Auth cannot be asked.
        """
        with _errors():
            self._app.logout()

    def close(self) -> None:
        """Close the connections."""
        self._app.close()

    def _made(self, username: str) -> Login:
        tokens = self._tokens[self._settings.resource_server]
        login = Login(
            settings=self._settings,
            username=username,
            access_token=tokens["access_token"],
            refresh_token=tokens["refresh_token"] or "",
            expires_at=float(tokens["expires_at_seconds"]),
        )
        return replace(login, others=self._tokens)


def _storage(tokens: dict[str, dict[str, Any]]) -> Any:
    """Return a token storage of the SDK's kind, over `tokens`: resource server → its token."""
    from globus_sdk.token_storage import TokenStorage, TokenStorageData

    class Storage(TokenStorage):
        def store_token_data_by_resource_server(
            self, token_data_by_resource_server: Mapping[str, TokenStorageData]
        ) -> None:
            for name, one in token_data_by_resource_server.items():
                tokens[name] = one.to_dict()

        def get_token_data_by_resource_server(self) -> dict[str, TokenStorageData]:
            return {name: TokenStorageData.from_dict(one) for name, one in tokens.items()}

        def remove_token_data(self, resource_server: str) -> bool:
            return tokens.pop(resource_server, None) is not None

    return Storage()


def _manager(client: Any, ask_code: Callable[[str], str] | None) -> Any:
    """Return a login manager of the SDK's kind that asks by `ask_code`."""
    from globus_sdk.login_flows import CommandLineLoginFlowManager

    class Manager(CommandLineLoginFlowManager):
        url = ""

        def print_authorize_url(self, authorize_url: str) -> None:
            self.url = authorize_url

        def prompt_for_code(self) -> str:
            if ask_code is None:
                raise AuthenticationError("nobody can be asked to log in here")
            return ask_code(self.url)

    return Manager(client, request_refresh_tokens=True, native_prefill_named_grant="s2uc")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn the SDK's errors into ours; their texts are not shown, as they may hold what was sent."""
    from globus_sdk import AuthAPIError, GlobusError, NetworkError
    from globus_sdk.token_storage import TokenValidationError
    from globus_sdk.token_storage.validating_token_storage import IdentityMismatchError

    try:
        yield
    except AuthAPIError as error:
        if error.http_status in {400, 401, 403}:
            raise AuthenticationError(
                f"Globus refuses (HTTP {error.http_status}); log in again (s2uc login)"
            ) from None
        raise PeerError(f"Globus Auth answers with HTTP {error.http_status}; try again later") from None
    except NetworkError as error:
        raise PeerError(f"Globus Auth cannot be asked ({type(error).__name__}); check the network") from None
    except IdentityMismatchError:
        raise AuthenticationError(
            "somebody else has logged in than before; to change the person type: s2uc logout"
        ) from None
    except TokenValidationError as error:
        raise AuthenticationError(
            f"the login cannot be used any more ({type(error).__name__}); log in again (s2uc login)"
        ) from None
    except GlobusError as error:
        raise PeerError(f"Globus Auth does not answer as expected ({type(error).__name__})") from None
