"""The authenticator ``shared-key``: random tokens that the operator hands out; the server keeps hashes only.

For a laboratory without an identity provider. The tokens are 256 random bits, so a plain SHA-256 of them
can be neither reversed nor guessed; slow password hashes are for what people choose themselves.

The file is TOML, mode 0600::

    [tokens]
    "<sha256 of the token, hex>" = "alice"
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path

from scistream.auth.base import (
    OWN_TOKEN_PREFIX,
    Authenticator,
    Credentials,
    Principal,
    check_token,
    not_known,
)
from scistream.auth.secret_files import create_secret_file, read_secret_file, replace_secret_file
from scistream.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HEADER = "# Who may use this gateway: SHA-256 of each token, and its holder. By: s2cs token\n[tokens]\n"


class SharedKey(Authenticator):
    """Knows the holders of the tokens whose hashes are in a file.

    Parameters
    ----------
    holders : mapping of str to str
        SHA-256 of a token (hex) → name of the principal.
    """

    def __init__(self, holders: Mapping[str, str]) -> None:
        self._holders = dict(holders)

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> SharedKey:
        """Return an authenticator for the file that the setting ``file`` names.

        Raises
        ------
        ConfigurationError
            There is no such setting, another one, or the file cannot be used.
        """
        if unknown := sorted(set(settings) - {"file"}):
            raise ConfigurationError(f"authenticator 'shared-key' has no setting {unknown[0]!r}, only 'file'")
        if not settings.get("file"):
            raise ConfigurationError(
                "authenticator 'shared-key' needs the file with the tokens' hashes; make one with: "
                "s2cs token NAME --auth-file tokens.toml --out NAME.token; then give --auth-file tokens.toml"
            )
        path = Path(settings["file"])
        holders = _read(path)
        if not holders:
            raise ConfigurationError(
                f"{path} holds no tokens; add one with: s2cs token NAME --auth-file {path} --out NAME.token"
            )
        return cls(holders)

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return the holder of the token; every hash is compared, in constant time.

        Raises
        ------
        AuthenticationError
            There is no token, or nobody holds it.
        """
        digest = hash_token(check_token(credentials))
        found = [name for known, name in self._holders.items() if hmac.compare_digest(known, digest)]
        if not found:
            raise not_known(credentials)
        return Principal(found[0], "shared-key", found[0])


def hash_token(token: str) -> str:
    """Return the SHA-256 of `token`, in hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def create_token(name: str, auth_file: Path) -> str:
    """Return a new random token, and add its hash for the principal `name` to `auth_file`.

    The file is made if it is not there; a principal may hold several tokens. Control servers read the file
    when they start.

    Raises
    ------
    ConfigurationError
        The name is none, or the file cannot be used.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"{name!r} is not a name of letters, digits and _ . @ + - (at most 128)")
    holders = _read(auth_file) if auth_file.exists() else {}
    token = OWN_TOKEN_PREFIX + secrets.token_urlsafe(32)
    holders[hash_token(token)] = name
    lines = (f'"{digest}" = {json.dumps(holder)}\n' for digest, holder in holders.items())
    replace_secret_file(auth_file, (_HEADER + "".join(lines)).encode())
    return token


def count_tokens(name: str, auth_file: Path) -> int:
    """Return how many tokens the principal `name` holds by `auth_file`.

    Raises
    ------
    ConfigurationError
        The file cannot be used.
    """
    return sum(holder == name for holder in _read(auth_file).values())


def create_token_file(name: str, auth_file: Path, token_file: Path) -> None:
    """Make a token for the principal `name`: its hash into `auth_file`, itself into the new `token_file`.

    Raises
    ------
    ConfigurationError
        The name is none, or a file cannot be written. Then neither file has changed.
    """
    create_secret_file(token_file, b"")
    try:
        replace_secret_file(token_file, create_token(name, auth_file).encode() + b"\n")
    except ConfigurationError:
        token_file.unlink(missing_ok=True)
        raise


def read_token_file(path: Path) -> str:
    """Return the token in `path`.

    Raises
    ------
    ConfigurationError
        The file cannot be used, or holds something else than one token.
    """
    words = read_secret_file(path).decode("ascii", "replace").split()
    if len(words) != 1 or not words[0].isascii() or not words[0].isprintable():
        raise ConfigurationError(f"{path} does not hold one token on one line")
    return words[0]


def _read(path: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(read_secret_file(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not a TOML file: {error}") from error
    tokens = content.pop("tokens", {})
    if content or not isinstance(tokens, dict):
        raise ConfigurationError(f"{path} has to hold one table [tokens] and nothing else")
    for digest, name in tokens.items():
        if _DIGEST.fullmatch(digest) is None or not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise ConfigurationError(
                f"{path}: entry {digest[:8]!r}… is not the SHA-256 of a token and its holder's name"
            )
    return tokens
