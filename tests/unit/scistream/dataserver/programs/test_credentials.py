"""Session credentials on their way to a program."""

from __future__ import annotations

import pytest

from scistream.dataserver import TlsCredentials, TlsLeg
from scistream.dataserver.programs.credentials import (
    OWN,
    PEER,
    check_credentials,
    credential_files,
    peer_name,
)
from scistream.errors import DataServerError
from support.relays import Identity, credentials

ONE, OTHER = Identity.make("one"), Identity.make("other_-uid")
GOOD = credentials(TlsLeg.TARGET, ONE, OTHER)


def test_good_credentials_become_two_files() -> None:
    check_credentials(GOOD)
    files = credential_files(GOOD)
    assert set(files) == {OWN, PEER}
    assert ONE.certificate in files[OWN]
    assert ONE.key in files[OWN]
    assert files[PEER] == OTHER.certificate


def test_a_plain_session_has_no_file() -> None:
    assert credential_files(None) == {}


def test_the_peers_name_is_that_of_its_certificate() -> None:
    assert peer_name(GOOD) == "other_-uid"


@pytest.mark.parametrize(
    ("tls", "why"),
    [
        (credentials(TlsLeg.TARGET, Identity(ONE.certificate, OTHER.key), OTHER), "does not belong"),
        (
            credentials(TlsLeg.TARGET, Identity(ONE.certificate, b"nonsense"), OTHER),
            "private key cannot be read",
        ),
        (credentials(TlsLeg.TARGET, Identity(b"nonsense", ONE.key), OTHER), "this side's certificate cannot"),
        (credentials(TlsLeg.TARGET, ONE, Identity(b"nonsense", b"")), "other side's certificate cannot"),
        (
            credentials(TlsLeg.TARGET, ONE, Identity(ONE.certificate + OTHER.certificate, b"")),
            "is 2 certificates",
        ),
    ],
)
def test_what_cannot_work_is_refused_and_not_shown(tls: TlsCredentials, why: str) -> None:
    with pytest.raises(DataServerError, match=why) as refusal:
        check_credentials(tls)
    assert "nonsense" not in str(refusal.value)
    assert refusal.value.__cause__ is None
