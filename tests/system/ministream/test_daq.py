"""The DAQ as a process: what its consumers get, when, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ministream.errors import ConnectionFailed, ProtocolError
from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.sources import ViewOrder
from ministream.sources.phantom import Phantom, PhantomOptions
from ministream.stages.steering import ask_to_finish
from ministream.transport import Ended, Inlet, Message, Notice
from ministream.wire import decode
from support.consuming import consume, event
from support.processes import MarkedProcesses

SMALL = "phantom:columns=64,rows=2,projections=40,flats=3,darks=2"
OPTIONS = PhantomOptions(columns=64, rows=2, projections=40, flats=3, darks=2)


def start(processes: MarkedProcesses, *arguments: str | Path) -> tuple[subprocess.Popen[str], str]:
    daq = processes.start("daq", *arguments, "--json")
    ready = event(daq)
    assert ready["event"] == "ready"
    return daq, ready["address"]


def summary(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    done = json.loads(out.splitlines()[-1])
    assert done["event"] == "done"
    return done  # type: ignore[no-any-return]


@pytest.mark.parametrize("order", list(ViewOrder))
def test_a_consumer_gets_every_frame_of_the_source_once_and_in_order(
    processes: MarkedProcesses, order: ViewOrder
) -> None:
    daq, address = start(processes, SMALL, "--order", order)
    with Inlet([address] * 2, flow="c") as inlet:
        frames = consume(inlet)
        description = ScanDescription.from_mapping(inlet.description)
    done = summary(daq)
    expected = list(Phantom(OPTIONS).frames(order))
    assert description == Phantom(OPTIONS).describe()
    assert len(frames) == len(expected) == 45
    for got, wanted in zip(frames, expected, strict=True):
        assert (got.sequence, got.kind) == (wanted.sequence, wanted.kind)
        assert got.angle_rad == pytest.approx(wanted.angle_rad, abs=1e-6)
        np.testing.assert_array_equal(got.pixels, wanted.pixels)
    assert (done["projections_sent"], done["flat_fields_sent"], done["dark_fields_sent"]) == (40, 3, 2)
    assert done["projections_total"] == 40
    assert done["bytes_sent"] > 45 * 64 * 2 * 2
    assert time.time() - 60 < done["first_projection_at"] < time.time()


def test_projections_come_at_the_rate_and_fields_before_without_delay(processes: MarkedProcesses) -> None:
    rate = 80.0
    daq, address = start(processes, SMALL, "--rate", f"{rate}")
    with Inlet([address], flow="c") as inlet:
        frames = consume(inlet)
    done = summary(daq)
    assert len(frames) == 45
    # the last of 40 is due after 39 intervals; lateness would add to it if it added up
    assert done["seconds"] >= 39 / rate - 0.005
    assert done["seconds"] < 39 / rate + 0.5
    assert 0 <= done["late_s"] < 0.5


@pytest.mark.parametrize(("rate", "projections"), [(50, 200), (1000, 3000)])
def test_the_rate_is_met_within_one_percent(
    processes: MarkedProcesses, tmp_path: Path, rate: float, projections: int
) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = np.full((projections, 2, 32), 100, "u2")
        file["exchange/theta"] = np.linspace(0, 180, projections)
        file["exchange/theta"].attrs["units"] = "degrees"
    fields = ("--flat-value", "200", "--dark-value", "0")
    daq, address = start(processes, tmp_path / "scan.h5", "--rate", f"{rate}", *fields)
    arrived_s: list[float] = []
    with Inlet([address], flow="c", credits=256) as inlet:
        inlet.await_description()
        while not isinstance(item := inlet.receive(20), Ended):
            assert isinstance(item, Message)
            arrived_s.append(time.monotonic())
            inlet.acknowledge(item.sequence)
    done = summary(daq)
    assert len(arrived_s) == projections + 2
    measured = (projections - 1) / (arrived_s[-1] - arrived_s[2])
    assert measured == pytest.approx(rate, rel=0.01)
    assert done["projections_per_s"] == pytest.approx(rate, rel=0.01)


def test_a_slow_consumer_makes_it_late_but_loses_nothing(processes: MarkedProcesses) -> None:
    daq, address = start(processes, SMALL, "--rate", "1000")
    with Inlet([address], flow="c", credits=2) as inlet:
        pixel_type = inlet.await_description()["pixel_type"]
        sequences = []
        while not isinstance(item := inlet.receive(20), Ended):
            assert isinstance(item, Message)
            sequences.append(decode(item.payload, pixel_type).sequence)
            if len(sequences) == 20:
                # as long as nothing is acknowledged nothing comes, beyond the credits
                held = [item.sequence]
                while (more := inlet.receive(0.4)) is not None:
                    assert isinstance(more, Message)
                    held.append(more.sequence)
                    sequences.append(decode(more.payload, pixel_type).sequence)
                assert len(held) <= 2
                item = more or Message(held[-1], memoryview(b""))
            inlet.acknowledge(sequences[-1])
    assert sequences == list(range(45))
    assert summary(daq)["late_s"] > 0.3


def test_it_waits_for_all_consumers_and_each_gets_everything(processes: MarkedProcesses) -> None:
    daq, address = start(processes, SMALL, "--consumers", "2")
    with Inlet([address], flow="one") as one:
        one.await_description()
        assert one.receive(0.3) is None
        with Inlet([address], flow="two") as two:
            sequences: dict[str, list[int]] = {"one": [], "two": []}
            ended: set[str] = set()
            while len(ended) < 2:
                for inlet in (one, two):
                    item = inlet.receive(0.01)
                    if isinstance(item, Ended):
                        ended.add(inlet.flow)
                    elif isinstance(item, Message):
                        sequences[inlet.flow].append(item.sequence)
                        inlet.acknowledge(item.sequence)
    assert sequences == {"one": list(range(45)), "two": list(range(45))}
    assert summary(daq)["projections_sent"] == 40


def test_a_consumer_too_many_is_refused_and_disturbs_nothing(processes: MarkedProcesses) -> None:
    daq, address = start(processes, SMALL)
    with Inlet([address], flow="one", credits=1) as one:
        first = one.receive(10)
        assert isinstance(first, Message)
        with Inlet([address], flow="two") as two, pytest.raises(ConnectionFailed, match="has begun"):
            two.receive(10)
        one.acknowledge(0)
        assert len(consume(one)) == 44
    assert summary(daq)["projections_sent"] == 40


def test_the_truth_is_written_before_it_is_ready(processes: MarkedProcesses, tmp_path: Path) -> None:
    truth = tmp_path / "truth.h5"
    daq, _ = start(processes, SMALL, "--truth", truth)
    with h5py.File(truth) as file:
        np.testing.assert_array_equal(file["exchange/data"][()], Phantom(OPTIONS).truth())
        assert file["exchange/data"].attrs["source"] == SMALL
    daq.kill()


def test_a_consumer_that_dies_ends_it_with_a_reason(processes: MarkedProcesses) -> None:
    daq, address = start(processes, SMALL, "--rate", "20")
    with Inlet([address], flow="the-consumer") as inlet:
        for _ in range(10):
            item = inlet.receive(10)
            assert isinstance(item, Message)
            inlet.acknowledge(item.sequence)
    out, err = daq.communicate(timeout=20)
    assert daq.returncode == 4
    assert "consumer the-consumer left after" in err
    assert err.startswith("ministream: error: ")
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("error", 4)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "waiting"])
def test_a_signal_ends_it_and_its_consumer_is_told(
    processes: MarkedProcesses, signum: signal.Signals, code: int, streaming: bool
) -> None:
    daq, address = start(processes, SMALL, "--rate", "5")
    if streaming:
        with Inlet([address], flow="c") as inlet:
            assert isinstance(inlet.receive(10), Message)
            daq.send_signal(signum)
            with pytest.raises(ConnectionFailed, match="closed before its end"):
                consume(inlet)
    else:
        daq.send_signal(signum)
    _, err = daq.communicate(timeout=20)
    assert daq.returncode == code, err
    assert err == ""


def test_what_it_cannot_play_is_one_line(processes: MarkedProcesses, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no scan")
    _, taken = start(processes, SMALL)
    cases: list[tuple[list[str], int, str]] = [
        ([str(tmp_path / "none.h5")], 3, "No such file"),
        ([str(tmp_path / "text.h5")], 3, "not an HDF5 file"),
        (["phantom:rows=none"], 3, "rows is 'none'"),
        ([SMALL, "--truth", str(tmp_path / "no" / "t.h5")], 5, "make its folder"),
        ([SMALL, "--listen", taken], 5, "is in use"),
        ([SMALL, "--listen", "here"], 3, "tcp://HOST:PORT"),
        ([SMALL, "--rate", "-1"], 2, "--rate"),
        ([SMALL, "--rate", "inf"], 3, "rate inf"),
    ]
    for arguments, code, words in cases:
        finished = processes.run("daq", *arguments)
        assert finished.returncode == code, finished.stderr
        assert finished.stderr.count("\n") == 1
        assert finished.stderr.startswith("ministream: error: ")
        assert words in finished.stderr


def test_a_frame_that_no_detector_gives_ends_it_with_its_place(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    data = np.full((12, 2, 32), 100, "f4")
    data[5, 1, 7] = np.nan
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = data
        file["exchange/data_white"] = np.full((1, 2, 32), 200, "f4")
        file["exchange/data_dark"] = np.full((1, 2, 32), 1, "f4")
        file["exchange/theta"] = np.linspace(0, 165, 12)
        file["exchange/theta"].attrs["units"] = "degrees"
    daq, address = start(processes, tmp_path / "scan.h5")
    with Inlet([address], flow="c") as inlet:
        frames: list[Frame] = []
        with pytest.raises(ConnectionFailed, match="closed before its end"):
            consume(inlet, frames)
        kinds = [frame.kind for frame in frames]
    assert kinds == [FrameKind.DARK_FIELD, FrameKind.FLAT_FIELD] + [FrameKind.PROJECTION] * 5
    _, err = daq.communicate(timeout=20)
    assert daq.returncode == 3
    assert "/exchange/data[5] holds nan at row 1, column 7" in err


def test_a_second_signal_forces_it(processes: MarkedProcesses) -> None:
    """Stopping takes up to two seconds where a consumer does not read; whoever is in a hurry repeats it."""
    daq, address = start(processes, SMALL, "--rate", "5")
    with Inlet([address], flow="c") as inlet:
        assert isinstance(inlet.receive(10), Message)
        daq.send_signal(signal.SIGTERM)
        daq.send_signal(signal.SIGINT)
        daq.communicate(timeout=20)
        assert daq.returncode in (130, 143)


def test_a_scan_that_is_asked_to_end_ends_well_and_early(processes: MarkedProcesses) -> None:
    # ten projections a second: it would take a minute
    daq = processes.start(
        *("daq", "phantom:columns=64,rows=2,projections=600", "--rate", "10"),
        *("--steer", "tcp://127.0.0.1:0", "--json"),
    )
    ready = event(daq)
    with pytest.raises(ProtocolError, match="has not begun"):
        ask_to_finish(ready["steering_address"], "too early")
    projections, told = 0, []
    with Inlet([ready["address"]], flow="c") as inlet:
        while not isinstance(item := inlet.receive(30), Ended):
            if isinstance(item, Notice):
                told.append(item.message)
                continue
            assert isinstance(item, Message)
            projections += decode(item.payload, "uint16").kind is FrameKind.PROJECTION
            inlet.acknowledge(item.sequence)
            if projections == 5:
                ask_to_finish(ready["steering_address"], "five are enough")
    done = summary(daq)
    assert done["ended_early"] == "five are enough"
    # its consumer need not take it for a loss
    assert told == [{"kind": "ended_early", "reason": "five are enough"}]
    assert done["projections_sent"] == projections
    assert 5 <= projections < 100
