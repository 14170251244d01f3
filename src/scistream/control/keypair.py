"""A session's own certificate and private key: made here, kept for the next control server, forgotten."""

from __future__ import annotations

import logging

from scistream.auth.certificates import make_session_certificate
from scistream.control.state_dir import StateDirectory
from scistream.core.events import Role
from scistream.core.session import Session
from scistream.dataserver.base import TlsCredentials, TlsLeg
from scistream.dataserver.registry import omits_close_notify
from scistream.errors import ConfigurationError, DataServerError

logger = logging.getLogger(__name__)


class KeyPair:
    """The key pair of one session; of a session of an earlier control server, the one that was kept.

    Parameters
    ----------
    session : Session
        Whose.
    number : int or None
        Under which the private key is kept; None: nowhere but in memory.
    state : StateDirectory or None
        Where it is kept.
    """

    def __init__(self, session: Session, number: int | None, state: StateDirectory | None) -> None:
        self._uid = session.key.uid
        self._role = session.role
        self._reverse = session.reverse
        self._number = number
        self._state = state
        self.certificate_pem = session.certificate_pem
        self._private_key_pem = b""
        if self.certificate_pem and state is not None and number is not None:
            try:
                self._private_key_pem = state.read_key(number)
            except ConfigurationError:
                logger.exception("session %s: its private key is lost", self._uid)

    @property
    def wan_leg(self) -> TlsLeg:
        """Which leg goes to the other gateway, encrypted or not."""
        return TlsLeg.LISTENER if self._role is Role.PRODUCER else TlsLeg.TARGET

    def make(self) -> None:
        """Make the pair and keep its private key.

        Raises
        ------
        ConfigurationError
            The key cannot be kept.
        """
        self.certificate_pem, self._private_key_pem = make_session_certificate(self._uid)
        if self._state is not None and self._number is not None:
            self._state.write_key(self._number, self._private_key_pem)

    def forget(self) -> None:
        """Forget the private key, here and where it is kept."""
        self._private_key_pem = b""
        if self._state is not None and self._number is not None:
            try:
                self._state.remove_key(self._number)
            except OSError:
                logger.exception("session %s: its private key cannot be removed", self._uid)

    def credentials(self, peer_certificate_pem: bytes, peer_data_server: str) -> TlsCredentials | None:
        """Return what a data server needs to prove this key to that peer; None without a peer.

        Parameters
        ----------
        peer_data_server : str
            Kind of the data server that the peer is; empty: not known.

        Raises
        ------
        DataServerError
            The private key is lost.
        """
        if not peer_certificate_pem:
            return None
        if not self._private_key_pem:
            raise DataServerError("the session's private key is not there any more; ask for a new session")
        return TlsCredentials(
            leg=self.wan_leg,
            certificate_pem=self.certificate_pem,
            private_key_pem=self._private_key_pem,
            peer_certificate_pem=peer_certificate_pem,
            reverse=self._reverse,
            peer_omits_close_notify=omits_close_notify(peer_data_server),
        )
