"""Logins of a user: by Globus or any OpenID provider, stored, refreshed in silence, and withdrawn again."""

from scistream.client.login.settings import LoginSettings, globus_scope
from scistream.client.login.store import Login, LoginStore, store_path
from scistream.client.login.stored import StoredToken, log_out, refreshed

__all__ = [
    "Login",
    "LoginSettings",
    "LoginStore",
    "StoredToken",
    "globus_scope",
    "log_out",
    "refreshed",
    "store_path",
]
