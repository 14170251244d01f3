"""Link keys: their files, and who is let in with which."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.errors import ConnectionFailed, InputError, OutputError
from ministream.transport import Inlet, LinkKey, Message, Outlet, is_loopback, link_key_for

KEY, OTHER = LinkKey.new(), LinkKey.new()


# ---------------------------------------------------------------------- files


def test_a_key_comes_out_of_its_file_as_it_was_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "run.key"
    KEY.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert LinkKey.read(path) == KEY
    assert KEY != OTHER


def test_its_text_has_no_secret() -> None:
    for text in (repr(KEY), str(KEY)):
        assert KEY.server_public in text
        assert KEY.server_secret not in text
        assert KEY.client_secret not in text


def test_an_open_file_in_memory_will_do() -> None:
    descriptor = os.memfd_create("key")
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, KEY.dump())
        assert LinkKey.read(Path(f"/proc/self/fd/{descriptor}")) == KEY
    finally:
        os.close(descriptor)


def test_files_that_will_not_do(tmp_path: Path) -> None:
    path = tmp_path / "run.key"
    KEY.write(path)
    with pytest.raises(InputError, match="exists already"):
        OTHER.write(path)
    with pytest.raises(OutputError, match="No such file"):
        OTHER.write(tmp_path / "missing" / "run.key")
    path.chmod(0o640)
    with pytest.raises(InputError, match=r"mode 0640\); type: chmod 600"):
        LinkKey.read(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        LinkKey.read(tmp_path / "missing.key")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        LinkKey.read(tmp_path)
    with pytest.raises(InputError, match="/dev/zero: this is no link key"):
        LinkKey.read(Path("/dev/zero"))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_or_an_input_error(content: bytes) -> None:
    with pytest.raises(InputError, match="no link key"):
        LinkKey.parse(content)


@pytest.mark.parametrize("half", ["server_public", "server_secret", "client_public", "client_secret"])
@pytest.mark.parametrize("value", ['"short"', "7", "null", '"%s"' % ("~" * 40)])
def test_a_damaged_half_is_refused_and_not_shown(half: str, value: str) -> None:
    content = KEY.dump().decode().replace(f'"{getattr(KEY, half)}"', value)
    with pytest.raises(InputError) as caught:
        LinkKey.parse(content.encode())
    assert not any(secret in str(caught.value) for secret in (KEY.server_secret, KEY.client_secret))


# ---------------------------------------------------------------------- who needs one


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("tcp://127.0.0.1:0", True),
        ("tcp://127.1.2.3:5000", True),
        ("tcp://[::1]:5000", True),
        ("tcp://localhost:5000", True),
        ("tcp://0.0.0.0:5000", False),
        ("tcp://*:5000", False),
        ("tcp://[::]:5000", False),
        ("tcp://10.0.0.1:5000", False),
        ("tcp://node1.example.org:5000", False),
        # whoever listens there says what is wrong with it
        ("nonsense", True),
        ("tcp://[::1:5000", True),
    ],
)
def test_what_other_hosts_reach_needs_a_key(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
    assert link_key_for([address], None, insecure=True) is None
    if loopback:
        assert link_key_for([address], None, insecure=False) is None
    else:
        with pytest.raises(InputError, match="give --link-key FILE"):
            link_key_for(["tcp://127.0.0.1:0", address], None, insecure=False)


def test_a_key_that_is_given_is_used_on_loopback_too(tmp_path: Path) -> None:
    KEY.write(tmp_path / "run.key")
    assert link_key_for(["tcp://127.0.0.1:0"], tmp_path / "run.key", insecure=False) == KEY


# ---------------------------------------------------------------------- sockets


def _meet(outlet: Outlet, inlet: Inlet) -> None:
    while not inlet.await_welcome(0.05):
        outlet.poll(0.05)


def test_who_has_the_key_is_served() -> None:
    with (
        Outlet(description={"what": "it"}, key=KEY) as outlet,
        Inlet([outlet.address, outlet.address], flow="f", key=KEY) as inlet,
    ):
        while not outlet.flows:
            outlet.poll(0.05)
            inlet.await_welcome(0)
        outlet.send("f", b"payload")
        while (item := inlet.receive(0.05)) is None:
            outlet.poll(0)
        assert isinstance(item, Message)
        assert bytes(item.payload) == b"payload"


@pytest.mark.parametrize(
    ("ours", "theirs"), [(KEY, OTHER), (KEY, None), (None, KEY)], ids=["another", "none", "needless"]
)
def test_who_has_another_key_or_none_learns_nothing_and_is_told(
    ours: LinkKey | None, theirs: LinkKey | None
) -> None:
    with (
        Outlet(description={"what": "it"}, key=ours) as outlet,
        Inlet([outlet.address], flow="f", key=theirs, connect_timeout_s=1.5) as inlet,
    ):
        with pytest.raises(ConnectionFailed, match="another link key, or one of the two has none"):
            _meet(outlet, inlet)
        assert outlet.poll(0) == []
        assert outlet.flows == ()


def test_whoever_listens_must_prove_to_have_the_key_too() -> None:
    false = LinkKey(
        server_public=OTHER.server_public,
        server_secret=OTHER.server_secret,
        client_public=KEY.client_public,
        client_secret=KEY.client_secret,
    )
    with (
        Outlet(description={}, key=false) as outlet,
        Inlet([outlet.address], flow="f", key=KEY, connect_timeout_s=1.5) as inlet,
        pytest.raises(ConnectionFailed, match="another link key"),
    ):
        _meet(outlet, inlet)
    assert outlet.flows == ()
