"""Volumes over real sockets: the newest arrives, also for who comes late; the last one always."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import zmq

from ministream.errors import ConnectionFailed, PortInUse, ProtocolError
from ministream.stages import broadcast
from ministream.stages.broadcast import VolumePublisher, VolumeSubscriber

WAIT_S = 10.0


def volume(value: float, slices: int = 2, size: int = 8) -> np.ndarray:
    return np.full((slices, size, size), value, np.float32)


def until(subscriber: VolumeSubscriber, condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_at
        subscriber.receive(0.05)


def offer(publisher: VolumePublisher, value: float, slices: int = 2, begin: int = 0) -> None:
    publisher.offer([volume(value, slices)], slice_begin=begin, projections=int(value), rotation_center=3.5)


def newest(subscriber: VolumeSubscriber, source: int) -> int:
    """Of how many projections the last that a publisher has sent is made."""
    pieces = subscriber._sources[source].pieces
    return pieces[-1][1].projections if pieces else 0


def slices_at(subscriber: VolumeSubscriber) -> int:
    """How many slices are there without a gap."""
    return len(subscriber.assemble()[0]) if subscriber.complete else 0


def test_one_who_comes_late_gets_the_newest_volume() -> None:
    with VolumePublisher("tcp://127.0.0.1:0", interval_s=100) as publisher:
        offer(publisher, 7)
        with VolumeSubscriber([publisher.address]) as subscriber:
            give_up_at = time.monotonic() + WAIT_S
            while not subscriber.receive(0.02):
                # the interval is long, and not over: but somebody has come
                offer(publisher, 8)
                assert time.monotonic() < give_up_at
            assembled, projections = subscriber.assemble()
    np.testing.assert_array_equal(assembled, volume(8))
    assert projections == 8


def test_volumes_are_published_no_more_often_than_asked() -> None:
    with (
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0.2) as publisher,
        VolumeSubscriber([publisher.address]) as subscriber,
    ):
        until(subscriber, lambda: subscriber.all_connected)
        began, count = time.monotonic(), 0
        while time.monotonic() < began + 1:
            offer(publisher, 1)
            count += subscriber.receive(0.001)
    assert 3 <= count <= 8


def test_the_last_volume_comes_and_then_the_end() -> None:
    with (
        VolumePublisher("tcp://127.0.0.1:0") as publisher,
        VolumeSubscriber([publisher.address]) as subscriber,
    ):
        until(subscriber, lambda: subscriber.all_connected)
        # connected is not subscribed yet: one who comes late is told by a later offer
        until(subscriber, lambda: offer(publisher, 1) or subscriber.complete)
        assert not subscriber.ended
        publisher.finish([volume(5)], slice_begin=0, projections=5, rotation_center=3.5)
        until(subscriber, lambda: subscriber.ended)
        assembled, projections = subscriber.assemble()
    np.testing.assert_array_equal(assembled, volume(5))
    assert projections == 5


def test_a_slow_viewer_does_not_stop_the_publisher_and_still_gets_the_last_volume() -> None:
    large = np.zeros((4, 512, 512), np.float32)
    with (
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0) as publisher,
        VolumeSubscriber([publisher.address]) as subscriber,
    ):
        until(subscriber, lambda: subscriber.all_connected)
        # connected is not subscribed yet: one who comes late is told by a later offer
        until(subscriber, lambda: offer(publisher, 1) or subscriber.complete)
        began = time.monotonic()
        for count in range(40):
            publisher.offer([large], slice_begin=0, projections=count, rotation_center=0)
        assert time.monotonic() - began < WAIT_S
        # it reads on while the publisher waits to tell its last words
        last = threading.Thread(
            target=lambda: publisher.finish([large + 1], slice_begin=0, projections=99, rotation_center=0.0)
        )
        last.start()
        until(subscriber, lambda: subscriber.ended)
        last.join(WAIT_S)
        assembled, projections = subscriber.assemble()
    assert projections == 99
    assert assembled[0, 0, 0] == 1


@pytest.mark.parametrize("finish", [False, True])
def test_a_large_volume_travels_in_pieces(monkeypatch: pytest.MonkeyPatch, finish: bool) -> None:
    """None is larger than may be, but for a slice; a viewer that is slow gets the others first next time."""
    monkeypatch.setattr(broadcast, "MESSAGE_BYTES", 2 * volume(0)[0].nbytes)
    sizes: list[int] = []
    encode = broadcast.encode_volume
    monkeypatch.setattr(
        broadcast, "encode_volume", lambda part, **said: sizes.append(len(part)) or encode(part, **said)
    )
    blocks = [np.stack([volume(slices)[0] for slices in range(5)]), volume(5, 4)]
    with (
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0) as publisher,
        VolumeSubscriber([publisher.address]) as subscriber,
    ):
        until(subscriber, lambda: subscriber.all_connected)
        said = {"slice_begin": 10, "projections": 3, "rotation_center": 1.0}
        until(subscriber, lambda: publisher.offer(blocks, **said) or slices_at(subscriber) == 9)
        if finish:
            blocks = [block + 1 for block in blocks]
            ended = threading.Thread(target=lambda: publisher.finish(blocks, **said))
            ended.start()
            until(subscriber, lambda: subscriber.ended)
            ended.join(WAIT_S)
        assembled, projections = subscriber.assemble()
    np.testing.assert_array_equal(assembled, np.concatenate(blocks))
    assert projections == 3
    assert max(sizes) == 2


def test_without_viewers_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> memoryview:
        raise AssertionError

    monkeypatch.setattr(broadcast, "encode_volume", refuse)
    with VolumePublisher("tcp://127.0.0.1:0", interval_s=0) as publisher:
        offer(publisher, 1)
        publisher.finish([volume(5)], slice_begin=0, projections=5, rotation_center=3.5)


def test_the_slices_of_several_workers_are_put_together_in_their_order() -> None:
    with (
        VolumePublisher("tcp://127.0.0.1:0") as first,
        VolumePublisher("tcp://127.0.0.1:0") as second,
        VolumeSubscriber([first.address, second.address]) as subscriber,
    ):

        def both() -> bool:
            # those who come late are told when the publisher next has something to say
            offer(first, 1, slices=1, begin=3)
            second.offer([volume(2), volume(2, 1)], slice_begin=0, projections=2, rotation_center=3.5)
            return subscriber.complete

        until(subscriber, both)
        assembled, projections = subscriber.assemble()
    np.testing.assert_array_equal(assembled[:, 0, 0], [2, 2, 2, 1])
    assert projections == 1


def test_the_newest_volume_of_a_slice_counts_and_a_gap_is_waited_for() -> None:
    with (
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0) as first,
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0) as second,
        VolumeSubscriber([first.address, second.address]) as subscriber,
    ):

        def with_gap() -> bool:
            offer(first, 1, slices=2)
            offer(second, 1, slices=1, begin=3)
            return len(subscriber._pieces) == 2

        until(subscriber, with_gap)
        assert not subscriber.complete
        # slices move from the first to the second
        until(subscriber, lambda: offer(second, 7, slices=3, begin=1) or newest(subscriber, 1) == 7)
        assembled, projections = subscriber.assemble()
    np.testing.assert_array_equal(assembled[:, 0, 0], [1, 7, 7, 7])
    assert projections == 1


def test_a_publisher_may_come_again_at_the_same_address() -> None:
    with VolumePublisher("tcp://127.0.0.1:0") as publisher:
        address = publisher.address
        subscriber = VolumeSubscriber([address])
        until(subscriber, lambda: offer(publisher, 1) or subscriber.complete)
    until(subscriber, lambda: subscriber._sources[0].gone_at_s is not None)
    assert not subscriber.ended
    with VolumePublisher(address) as again:
        until(subscriber, lambda: offer(again, 3) or newest(subscriber, 0) == 3)
        assert subscriber._sources[0].gone_at_s is None
    subscriber.close()


def test_a_publisher_that_goes_without_a_word_and_does_not_come_back_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "COME_BACK_S", 0.3)
    with VolumeSubscriber(["tcp://127.0.0.1:9"]) as nobody:
        nobody.receive(0.05)
        assert not nobody.all_connected
        assert not nobody.ended
        assert nobody.missing == ["tcp://127.0.0.1:9"]
    with VolumePublisher("tcp://127.0.0.1:0") as publisher:
        subscriber = VolumeSubscriber([publisher.address])
        until(subscriber, lambda: subscriber.all_connected)
    until(subscriber, lambda: subscriber.ended)
    assert not subscriber.complete
    subscriber.close()


def test_what_is_no_volume_is_a_protocol_error() -> None:
    context = zmq.Context()
    publisher = context.socket(zmq.PUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    with (
        VolumeSubscriber([f"tcp://127.0.0.1:{port}"]) as subscriber,
        pytest.raises(ProtocolError, match="TImage"),
    ):
        until(subscriber, lambda: publisher.send(b"\xff" * 40) is not None)
    context.destroy(linger=0)


def test_volumes_that_are_not_parts_of_one_are_refused() -> None:
    other = volume(1, size=9)
    with (
        VolumePublisher("tcp://127.0.0.1:0") as first,
        VolumePublisher("tcp://127.0.0.1:0") as second,
        VolumeSubscriber([first.address, second.address]) as subscriber,
    ):
        until(
            subscriber,
            lambda: (
                offer(first, 1)
                or second.offer([other], slice_begin=2, projections=1, rotation_center=0)
                or subscriber.complete
            ),
        )
        with pytest.raises(ProtocolError, match=r"\(2, 8, 8\), \(2, 9, 9\)"):
            subscriber.assemble()


def test_a_port_in_use_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortInUse, match=address):
            VolumePublisher(address)


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1", "tcp://256.0.0.1:x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConnectionFailed, match=address):
        VolumePublisher(address)
    with pytest.raises(ConnectionFailed, match=address):
        VolumeSubscriber([address])
