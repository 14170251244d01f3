"""What a session's application says hello with: a random credential, good for that session alone.

It is made at REQ and told to the user in the initial metadata of its answer; the journal has its hash. It is
random in 256 bits, so a plain SHA-256 can be neither reversed nor guessed. It ends with the session; for as
long as the ended session is remembered, it shows how that has ended.
"""

from __future__ import annotations

import hashlib
import secrets

from scistream.auth.base import OWN_TOKEN_PREFIX

# Known by its form, so that no authenticator, and no provider, is ever asked about it: no other token of
# ours has a dot there.
_PREFIX = f"{OWN_TOKEN_PREFIX}app."

#: The calls that it is good for: what `appctrl` needs to serve one session.
CALLS = frozenset({"hello", "status", "release"})


def make_credential() -> str:
    """Return a new random credential."""
    return _PREFIX + secrets.token_urlsafe(32)


def is_credential(token: str) -> bool:
    """Return whether `token` has the form of one."""
    return token.startswith(_PREFIX)


def hash_credential(credential: str) -> str:
    """Return the SHA-256 of `credential`, in hexadecimal digits."""
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).hexdigest()
