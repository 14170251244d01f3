"""Judgements of volumes that are being published; enough, and what follows from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ministream.errors import ConnectionFailed, InputError, MiniStreamError
from ministream.sinks import write_volume
from ministream.sources import ViewOrder
from ministream.stages import broadcast
from ministream.stages.broadcast import VolumePublisher
from ministream.stages.quality import QualityOptions, run
from ministream.stages.steering import SteeringListener

WAIT_S = 20.0


def truth(slices: int = 2, size: int = 32) -> np.ndarray:
    at = np.arange(size) - (size - 1) / 2
    disc = (at**2 + (at[:, np.newaxis] - 3) ** 2 <= 64).astype(np.float32)
    return np.stack([disc * (1 + index) for index in range(slices)])


def noisy(sigma: float, slices: int = 2) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, truth(slices).shape)
    return (truth(slices) + noise).astype(np.float32)


class Judge:
    """The stage, in a thread."""

    def __init__(self, *addresses: str, **options: Any) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self._options = QualityOptions(connect=addresses, **({"connect_timeout_s": WAIT_S} | options))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            run(self._options, self.events.append, self.stop)
        except MiniStreamError as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "quality does not end"

    def wait(self, condition: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < give_up_at
            meanwhile()
            self._thread.join(0.02)


def publish(publisher: VolumePublisher, volume: np.ndarray, projections: int, begin: int = 0) -> None:
    publisher.offer([volume], slice_begin=begin, projections=projections, rotation_center=15.5)


def test_live_the_slices_of_all_workers_are_judged_against_the_reference(tmp_path: Path) -> None:
    write_volume(tmp_path / "truth.h5", truth(3))
    with (
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0.02) as first,
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0.02) as second,
    ):
        judge_ = Judge(first.address, second.address, reference=str(tmp_path / "truth.h5"))

        def go_on() -> None:
            publish(first, noisy(0.5, 3)[:2], 10)
            publish(second, noisy(0.5, 3)[2:], 8, begin=2)

        judge_.wait(lambda: bool(judge_.events), go_on)
        first.finish([truth(3)[:2]], slice_begin=0, projections=20, rotation_center=15.5)
        second.finish([truth(3)[2:]], slice_begin=2, projections=20, rotation_center=15.5)
        judge_.join()
    assert judge_.error is None
    start, end = judge_.events[0], judge_.events[-1]
    assert start["event"] == "progress"
    assert (start["update"], start["projections"]) == (1, 8)
    assert start["ssim"] < 0.9
    assert "change" not in start
    assert end["event"] == "done"
    assert end["projections"] == 20
    assert end["ssim"] == pytest.approx(1)
    # infinite, which JSON does not know
    assert "psnr" not in end
    assert end["change"] > 0


def test_live_without_a_reference_the_change_is_told() -> None:
    with VolumePublisher("tcp://127.0.0.1:0", interval_s=0.02) as publisher:
        judge_ = Judge(publisher.address)
        judge_.wait(lambda: bool(judge_.events), lambda: publish(publisher, truth(), 4))
        publisher.finish([0.5 * truth()], slice_begin=0, projections=8, rotation_center=15.5)
        judge_.join()
    assert judge_.events[-1]["change"] == pytest.approx(1.0)
    assert judge_.events[-1]["sharpness"] > 0


def test_it_ends_when_the_workers_are_gone_and_do_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "COME_BACK_S", 0.3)
    with VolumePublisher("tcp://127.0.0.1:0", interval_s=0.02) as publisher:
        judge_ = Judge(publisher.address)
        judge_.wait(lambda: bool(judge_.events), lambda: publish(publisher, truth(), 4))
    judge_.join()
    assert judge_.error is None
    assert judge_.events[-1]["event"] == "done"


def test_it_ends_when_it_is_told_to() -> None:
    with VolumePublisher("tcp://127.0.0.1:0") as publisher:
        judge_ = Judge(publisher.address)
        judge_.stop.set()
        judge_.join()
    assert judge_.error is None
    assert judge_.events == []


def test_workers_that_are_not_there_are_a_failed_connection() -> None:
    judge_ = Judge("tcp://127.0.0.1:9", connect_timeout_s=0.3)
    judge_.join()
    assert isinstance(judge_.error, ConnectionFailed)
    assert "127.0.0.1:9" in str(judge_.error)


def test_a_reference_that_does_not_fit_is_an_input_error(tmp_path: Path) -> None:
    write_volume(tmp_path / "truth.h5", truth(3))
    with VolumePublisher("tcp://127.0.0.1:0", interval_s=0.02) as publisher:
        judge_ = Judge(publisher.address, reference=str(tmp_path / "truth.h5"))
        judge_.wait(lambda: judge_.error is not None, lambda: publish(publisher, truth(2), 4))
        judge_.join()
    assert isinstance(judge_.error, InputError)
    assert "(3, 32, 32)" in str(judge_.error)


def follow(judge_: Judge, publisher: VolumePublisher, volumes: list[np.ndarray], step: int) -> None:
    """Publish volumes of ever more projections, each as soon as the one before has been judged."""
    for number, volume in enumerate(volumes, 1):
        judge_.wait(
            lambda number=number: any(e["projections"] == number * step for e in judge_.events),
            lambda number=number, volume=volume: publish(publisher, volume, number * step),
        )


CALMING = [truth() * (1 - np.float32(0.4) ** number) for number in range(1, 13)]


def test_enough_is_told_once_and_the_daq_is_asked(tmp_path: Path) -> None:
    with (
        SteeringListener("tcp://127.0.0.1:0") as daq,
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0.01) as publisher,
    ):
        serving = threading.Event()

        def serve() -> None:
            while not serving.wait(0.01):
                daq.serve(playing=True)

        server = threading.Thread(target=serve)
        server.start()
        judge_ = Judge(
            publisher.address,
            projections=200,
            order=ViewOrder.GOLDEN_ANGLE,
            stop_daq=daq.address,
            plot=tmp_path / "live.svg",
        )
        follow(judge_, publisher, CALMING, 10)
        publisher.finish([CALMING[-1]], slice_begin=0, projections=120, rotation_center=15.5)
        judge_.join()
        serving.set()
        server.join()
    assert judge_.error is None
    (enough,) = [event for event in judge_.events if event["event"] == "enough"]
    # 0.6 * 0.4^(n - 1) of the last: 3.8 % from 30 to 40, 1.5 % from 40 to 50, and two more
    assert enough["projections"] == 70
    assert enough["projections_total"] == 200
    assert enough["daq_asked"] is True
    assert daq.reason is not None
    assert "70 projections" in daq.reason
    assert judge_.events[-1]["enough_at"] == 70
    assert "enough: 70 projections" in (tmp_path / "live.svg").read_text()


def test_a_daq_that_does_not_answer_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with (
        SteeringListener("tcp://127.0.0.1:0") as daq,
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0.01) as publisher,
    ):
        serving = threading.Event()

        def serve() -> None:
            while not serving.wait(0.01):
                daq.serve(playing=False)

        server = threading.Thread(target=serve)
        server.start()
        judge_ = Judge(publisher.address, projections=200, order=ViewOrder.INTERLACED, stop_daq=daq.address)
        follow(judge_, publisher, CALMING, 10)
        judge_.stop.set()
        judge_.join()
        serving.set()
        server.join()
    assert judge_.error is None
    (enough,) = [event for event in judge_.events if event["event"] == "enough"]
    assert enough["daq_asked"] is False
    assert "has not begun" in caplog.text


def test_as_measured_a_part_of_the_half_turn_is_not_enough() -> None:
    with VolumePublisher("tcp://127.0.0.1:0", interval_s=0.01) as publisher:
        judge_ = Judge(publisher.address, projections=200)
        follow(judge_, publisher, CALMING, 10)
        judge_.stop.set()
        judge_.join()
    assert {event["event"] for event in judge_.events} == {"progress"}
    assert judge_.events[-1]["enough_at"] is None


def test_to_stop_the_daq_the_projections_must_be_known() -> None:
    judge_ = Judge("tcp://127.0.0.1:9", stop_daq="tcp://127.0.0.1:9")
    judge_.join()
    assert "--projections" in str(judge_.error)
