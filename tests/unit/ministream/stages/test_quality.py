"""Judgements of files, and of volumes that are being published."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ministream.errors import ConnectionFailed, InputError, MiniStreamError
from ministream.sinks import write_volume
from ministream.stages import broadcast
from ministream.stages.broadcast import VolumePublisher
from ministream.stages.quality import QualityOptions, judge, judge_files, run

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


def test_less_noise_is_better_by_every_figure() -> None:
    good, bad = judge(noisy(0.02), truth()), judge(noisy(0.2), truth())
    assert set(good) == {"ssim", "psnr", "mse", "sharpness"}
    assert good["ssim"] > bad["ssim"]
    assert good["psnr"] > bad["psnr"]
    assert good["mse"] < bad["mse"]
    assert good["mse"] == pytest.approx(0.02**2, rel=0.1)


def test_without_a_reference_there_is_sharpness_alone() -> None:
    assert set(judge(truth())) == {"sharpness"}


@pytest.mark.parametrize(
    ("volume", "reference", "message"),
    [
        (truth()[0], None, r"\(32, 32\)"),
        (truth()[:, :, :-1], None, r"\(2, 32, 31\)"),
        (truth(size=8), None, "at least 11"),
        (truth(2), truth(3), r"\(2, 32, 32\).*\(3, 32, 32\)"),
        (truth(), 0 * truth(), "one value everywhere"),
    ],
)
def test_what_cannot_be_judged_is_an_input_error(
    volume: np.ndarray, reference: np.ndarray | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        judge(volume, reference)


def test_files_are_judged(tmp_path: Path) -> None:
    write_volume(tmp_path / "volume.h5", noisy(0.1))
    write_volume(tmp_path / "truth.h5", truth())
    assert judge_files(tmp_path / "volume.h5", tmp_path / "truth.h5") == judge(noisy(0.1), truth())
    assert judge_files(tmp_path / "volume.h5") == judge(noisy(0.1))


def test_a_file_with_nan_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["exchange/data"] = np.full((1, 16, 16), np.nan, np.float32)
    with pytest.raises(InputError, match="not finite"):
        judge_files(tmp_path / "volume.h5")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.h5"):
        judge_files(tmp_path / "nowhere.h5")


def test_live_the_slices_of_all_workers_are_judged_against_the_reference(tmp_path: Path) -> None:
    write_volume(tmp_path / "truth.h5", truth(3))
    with (
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0.02) as first,
        VolumePublisher("tcp://127.0.0.1:0", interval_s=0.02) as second,
    ):
        judge_ = Judge(first.address, second.address, reference=tmp_path / "truth.h5")

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
        judge_ = Judge(publisher.address, reference=tmp_path / "truth.h5")
        judge_.wait(lambda: judge_.error is not None, lambda: publish(publisher, truth(2), 4))
        judge_.join()
    assert isinstance(judge_.error, InputError)
    assert "(3, 32, 32)" in str(judge_.error)
