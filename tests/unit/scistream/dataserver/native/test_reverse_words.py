"""Words before the stream, in the clear: whole ones only, and nothing of what follows them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from scistream.dataserver.native import reverse_words as words
from scistream.dataserver.native.loop import Loop


@pytest.fixture
def talk() -> Iterator[tuple[words.Talk, socket.socket]]:
    """A talk, and the other end of its connection."""
    loop = Loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    yield words.Talk(loop, near, None), far
    near.close()
    far.close()
    loop.close()


def test_a_greeting_is_for_one_session_and_channel() -> None:
    greetings = {words.greeting(uid, channel) for uid in ("a", "a 1", "b") for channel in range(12)}
    assert len(greetings) == 36
    assert {len(one) for one in greetings} == {words.GREETING_BYTES}
    # "SciRev1\n", and what sha256sum says of "uid 0"
    assert words.greeting("uid", 0).hex() == (
        "536369526576310a11621bbe0d5d52106c8b9300a53d2cad4d4d941021627027"
    )


def test_the_word_to_begin_says_how_many_wait() -> None:
    assert words.begin(3) == b"G\x00\x03"
    assert words.waiting_in(words.begin(10**6)) == 65535
    with pytest.raises(words.TalkEnded):
        words.waiting_in(b"H\x00\x03")


def test_a_word_is_heard_when_it_is_complete(talk: tuple[words.Talk, socket.socket]) -> None:
    ours, theirs = talk
    theirs.sendall(b"G\x00")
    assert ours.hear(3) == b""
    theirs.sendall(b"\x05and the stream")
    assert ours.hear(3) == b"G\x00\x05"
    assert ours.hear(14) == b"and the stream"
    ours.say(words.TAKEN)
    assert theirs.recv(5) == words.TAKEN


def test_an_end_in_a_word_ends_the_talk(talk: tuple[words.Talk, socket.socket]) -> None:
    ours, theirs = talk
    theirs.sendall(b"G")
    theirs.close()
    with pytest.raises(words.TalkEnded, match="it has ended"):
        ours.hear(3)
    with pytest.raises(words.TalkEnded):
        ours.say(words.WELCOME)
