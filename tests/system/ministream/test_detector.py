"""Detectors by EPICS pvAccess, real servers in processes of their own: what arrives, and what is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ministream.errors import ConnectionFailed, InputError
from ministream.frames import Frame, FrameKind
from ministream.sources import Source, open_source
from ministream.stages.steering import ask_to_finish
from ministream.transport import Inlet
from support.consuming import consume, event
from support.detectors import P4P, PVAPY, DetectorProcess, loopback
from support.mini_app import DARK, DARK_RESET, PROJECTION, WHITE, WHITE_RESET, Distributor
from support.processes import MarkedProcesses

D, F, P = FrameKind.DARK_FIELD, FrameKind.FLAT_FIELD, FrameKind.PROJECTION
NAMES = {D: "DarkField", F: "FlatField", P: "Projection"}

SCAN = """
def told(kind, index):
    return dict(FrameType=kind, Angle=2.5 * index)
def scan(projections=6, first=1):
    number = first
    for kind, count in (("DarkField", 2), ("FlatField", 3), ("Projection", projections)):
        for index in range(count):
            post(np.full((4, 6), number, "u2"), number, **told(kind, index))
            number += 1
post(np.full((4, 6), 99, "u2"), 0, FrameType="Projection", Angle=0.0)
tell(ready=True)
wait()
"""


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Source]]:
    opened: list[Source] = []

    def made(detector: Any, **options: Any) -> Source:
        for name, value in detector.environment.items():
            monkeypatch.setenv(name, value)
        defaults = {"projections": "6", "angle_attribute": "Angle", "idle_timeout_s": 3.0}
        opened.append(open_source(f"pva:{detector.name}", **{**defaults, **options}))
        return opened[-1]

    yield made
    for source in opened:
        source.close()


@pytest.mark.parametrize("server", [P4P, PVAPY], ids=["p4p", "pvapy"])
def test_a_scan_arrives_whole_and_what_was_shown_before_is_left_out(
    server: str, follow: Callable[..., Source]
) -> None:
    with DetectorProcess(server, SCAN + "scan()") as detector:
        detector.told()
        source = follow(detector)
        description = source.describe()
        detector.go_on()
        frames = list(source.frames())
    assert (description.rows, description.columns, description.pixel_type) == (4, 6, "uint16")
    assert description.projections == 6
    assert [frame.kind for frame in frames] == [D] * 2 + [F] * 3 + [P] * 6
    assert [int(frame.pixels[0, 0]) for frame in frames] == list(range(1, 12))
    assert [frame.sequence for frame in frames if frame.resets] == [0, 2]
    np.testing.assert_allclose([frame.angle_rad for frame in frames[5:]], np.radians(2.5 * np.arange(6)))
    assert source.counts == {"frames_lost": 0, "frames_dropped": 0, "counter_restarts": 0}
    source.check_complete()


TYPES = [
    ("?", "uint8"),
    ("u1", "uint8"),
    ("u2", "uint16"),
    ("i1", "float32"),
    ("i2", "float32"),
    ("i4", "float32"),
    ("u4", "float32"),
    ("i8", "float32"),
    ("u8", "float32"),
    ("f4", "float32"),
    ("f8", "float32"),
]


@pytest.mark.parametrize("server", [P4P, PVAPY], ids=["p4p", "pvapy"])
def test_every_pixel_type_arrives_as_it_is(server: str, follow: Callable[..., Source]) -> None:
    # pvapy's own helper has no booleans
    types = TYPES if server == P4P else TYPES[1:]
    script = "post(np.zeros((2, 3), '{0}'), 0)\ntell(ready=1)\nwait()\n"
    script += "post(np.array([[0, 1, 2], [3, 4, 127]], '{0}'), 1)"
    for dtype, pixel_type in types:
        with DetectorProcess(server, script.format(dtype)) as detector:
            detector.told()
            source = follow(
                detector, projections="1", attributes="none", flat_value=100, dark_value=0, angles="0:180"
            )
            detector.go_on()
            (*_, frame) = source.frames()
            source.close()
        assert source.describe().pixel_type == frame.pixels.dtype.name == pixel_type
        np.testing.assert_array_equal(frame.pixels, np.array([[0, 1, 2], [3, 4, 127]], dtype))


COMPRESSED = """
import imagecodecs as ic, h5py, hdf5plugin
pixels = np.random.default_rng(1).poisson(50, (120, 20)).repeat(8, axis=1).astype("{dtype}")
def hdf5(**filter_):
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset("x", data=pixels, chunks=pixels.shape, **filter_)
        return made.id.read_direct_chunk((0, 0))[1]
raw = pixels.tobytes()
made = dict(
    blosc=lambda: ic.blosc_encode(raw, typesize=pixels.itemsize, compressor="lz4", shuffle=1),
    lz4=lambda: ic.lz4_encode(raw),
    lz4hdf5=lambda: ic.lz4h5_encode(raw),
    # areaDetector's has no head of sizes
    bslz4=lambda: hdf5(**hdf5plugin.Bitshuffle(cname="lz4"))[12:],
    jpeg=lambda: ic.jpeg8_encode(pixels, level=100, subsampling="444"),
    other=lambda: b"1234567890",
)["{codec}"]()
number = [np.dtype(name) for name in "? i1 i2 i4 i8 u1 u2 u4 u8 f4 f8".split()].index(pixels.dtype)
post(np.frombuffer(made, "u1"), 0, codec=("{codec}", number), like=pixels)
np.save("{path}", pixels)
tell(ready=len(made) < pixels.nbytes)
wait()
post(np.frombuffer(made, "u1"), 1, codec=("{codec}", number), like=pixels)
"""
PLAIN = {"projections": "1", "attributes": "none", "flat_value": 200, "dark_value": 0, "angles": "0:180"}


@pytest.mark.parametrize(
    ("codec", "dtype"),
    [
        *[(codec, dtype) for codec in ("blosc", "lz4", "lz4hdf5", "bslz4") for dtype in ("u1", "u2", "f4")],
        ("jpeg", "u1"),
    ],
)
def test_compressed_images_are_decoded(
    codec: str, dtype: str, tmp_path: Path, follow: Callable[..., Source]
) -> None:
    script = COMPRESSED.format(codec=codec, dtype=dtype, path=tmp_path / "pixels.npy")
    with DetectorProcess(P4P, script) as detector:
        assert detector.told()["ready"], "it is not compressed"
        source = follow(detector, **PLAIN)
        detector.go_on()
        (*_, frame) = source.frames()
    pixels = np.load(tmp_path / "pixels.npy")
    assert frame.pixels.dtype == pixels.dtype
    if codec == "jpeg":
        assert abs(frame.pixels.astype(int) - pixels).max() <= 4
    else:
        np.testing.assert_array_equal(frame.pixels, pixels)


def test_an_unknown_codec_is_refused_with_those_that_are_known(
    tmp_path: Path, follow: Callable[..., Source]
) -> None:
    script = COMPRESSED.format(codec="other", dtype="u2", path=tmp_path / "pixels.npy")
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        with pytest.raises(InputError, match=r"'other'.*blosc, lz4, lz4hdf5, bslz4, jpeg and no compression"):
            follow(detector, **PLAIN)


def test_numbers_that_are_missing_are_counted_and_angles_stay_right(follow: Callable[..., Source]) -> None:
    script = (
        SCAN + "\nfor number in (1, 2, 5, 6, 9):\n    kind = 'FlatField' if number == 1 else 'Projection'\n"
    )
    script += "    post(np.full((4, 6), number, 'u2'), number, FrameType=kind)\n"
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector, projections="8", angles="0:80", angle_attribute=None, dark_value=0)
        detector.go_on()
        frames = [frame for frame in source.frames() if frame.kind is P]
    assert [int(frame.pixels[0, 0]) for frame in frames] == [2, 5, 6, 9]
    np.testing.assert_allclose(np.degrees([frame.angle_rad for frame in frames]), [0, 30, 40, 70])
    assert source.counts["frames_lost"] == 4
    with pytest.raises(ConnectionFailed, match=r"4 were lost before they came here, and 0 here.*4 of 8"):
        source.check_complete()


def test_a_counter_of_sixteen_bits_may_wrap(follow: Callable[..., Source]) -> None:
    with DetectorProcess(
        P4P,
        SCAN + "for number in (65533, 65534, 65535, 0, 1, 4):\n"
        "    post(np.ones((4, 6), 'u2'), number, FrameType='Projection', Angle=1.0)\n",
    ) as detector:
        detector.told()
        source = follow(detector, projections="8", dark_value=0, flat_value=9)
        detector.go_on()
        frames = list(source.frames())
    assert len(frames) == 2 + 6
    assert source.counts == {"frames_lost": 2, "frames_dropped": 0, "counter_restarts": 0}


def test_fields_that_come_again_begin_new_sets(follow: Callable[..., Source]) -> None:
    script = SCAN + "scan(projections=3)\nscan(projections=3, first=9)"
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector)
        detector.go_on()
        frames = list(source.frames())
    assert [frame.sequence for frame in frames if frame.resets] == [0, 2, 8, 10]
    source.check_complete()


def test_attributes_of_the_mini_app_are_known(follow: Callable[..., Source]) -> None:
    script = """
post(np.zeros((4, 6), "u1"), 0)
tell(ready=1)
wait()
kinds = ["/exchange/data_dark", "/exchange/data_white"] + ["/exchange/data"] * 3
for number, kind in enumerate(kinds, 1):
    steps = sys.argv[1] == "T:Steps"
    given = dict(StartPos=5.0, ScanDelta=0.5) if steps else dict(SampleRotary=10.0 * number)
    post(np.full((4, 6), number, "u1"), number, SaveDest=kind, ArrayCounter=number, **given)
"""
    for name, degrees in (("T:Rotary", [30, 40, 50]), ("T:Steps", [5, 5.5, 6])):
        with DetectorProcess(PVAPY, script, name=name) as detector:
            detector.told()
            source = follow(detector, projections="3", attributes="mini-app", angle_attribute=None)
            detector.go_on()
            frames = list(source.frames())
            source.close()
        assert [frame.kind for frame in frames] == [D, F, P, P, P]
        np.testing.assert_allclose(np.degrees([frame.angle_rad for frame in frames[2:]]), degrees)


def test_the_place_in_the_file_says_what_an_image_is(follow: Callable[..., Source]) -> None:
    script = (
        SCAN
        + """
where = dict(DarkField="/exchange/data_dark", FlatField="/exchange/data_white", Projection="/exchange/data")
def told(kind, index):
    return dict(HDF5FrameLocation=where[kind], Angle=1.0)
scan()
"""
    )
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector)
        detector.go_on()
        assert [frame.kind for frame in source.frames()] == [D] * 2 + [F] * 3 + [P] * 6


@pytest.mark.parametrize(
    ("attributes", "options", "words"),
    [
        ("dict(Angle=1.0)", {}, "does not tell what it is: FrameType or HDF5FrameLocation is not among"),
        ("dict(FrameType='Projection')", {}, "does not tell its angle: Angle is not among its attributes"),
        ("dict(FrameType='Focus', Angle=1.0)", {}, "FrameType is 'Focus'"),
        ("dict(FrameType='Projection', Angle='left')", {}, "Angle is 'left', not an angle"),
        ("dict(FrameType='Projection', Angle=float('nan'))", {}, "Angle is nan, not an angle"),
    ],
)
def test_an_attribute_that_is_missing_or_wrong_is_named(
    attributes: str, options: dict[str, Any], words: str, follow: Callable[..., Source]
) -> None:
    script = SCAN + f"post(np.zeros((4, 6), 'u2'), 1, **{attributes})"
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector, dark_value=0, flat_value=9, **options)
        detector.go_on()
        with pytest.raises(InputError) as caught:
            list(source.frames())
    assert words in str(caught.value)


def test_an_image_of_another_size_ends_the_scan(follow: Callable[..., Source]) -> None:
    script = SCAN + "post(np.zeros((4, 5), 'u2'), 1, FrameType='DarkField')"
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector)
        detector.go_on()
        with pytest.raises(InputError, match=r"frame 1 .*\(4, 5\).*\(4, 6\)"):
            list(source.frames())


def test_colours_are_refused(follow: Callable[..., Source]) -> None:
    with DetectorProcess(P4P, "post(np.zeros((4, 6, 3), 'u1'), 0, ColorMode=2)\ntell(ready=1)") as detector:
        detector.told()
        with pytest.raises(InputError, match=r"3 dimensions.*Mono"):
            follow(detector)


def test_a_server_that_comes_back_goes_on(follow: Callable[..., Source]) -> None:
    script = (
        SCAN
        + """
scan(projections=2)
tell(half=1)
wait()
server.stop()
server = Server(providers=[{sys.argv[1]: pv}])
tell(again=1)
wait()
for number in (8, 9, 10, 11):
    post(np.full((4, 6), number, "u2"), number, FrameType="Projection", Angle=1.0)
"""
    )
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector, idle_timeout_s=30.0)
        detector.go_on()
        frames = iter(source.frames())
        got = [next(frames) for _ in range(7)]
        detector.told()
        detector.go_on()
        detector.told()
        monitor = source._monitor
        give_up_at = time.monotonic() + 30
        while not (monitor.connected and monitor.connections == 2):
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        detector.go_on()
        got += list(frames)
    assert [int(frame.pixels[0, 0]) for frame in got] == list(range(1, 12))
    source.check_complete()


def test_what_does_not_answer_or_is_no_image_is_an_error(
    follow: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ministream.sources.epics._CONNECT_S", 1.0)
    script = """
from p4p.nt import NTScalar
other = SharedPV(nt=NTScalar("d"), initial=180.0)
text = SharedPV(nt=NTScalar("s"), initial="many")
angles = SharedPV(nt=NTScalar("ad"), initial=np.arange(4.0))
more = Server(providers=[{"T:Count": other, "T:Text": text, "T:Angles": angles}], useenv=True)
tell(ready=1)
"""
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        with pytest.raises(ConnectionFailed, match=r"T:Image has not answered.*EPICS_PVA_ADDR_LIST"):
            follow(detector)
        detector.name = "T:Count"
        with pytest.raises(InputError, match="T:Count shows no NTNDArray"):
            follow(detector)
        with pytest.raises(InputError, match="'many', not a number"):
            follow(detector, projections="T:Text")
        with pytest.raises(InputError, match="4 angles; 6 are needed"):
            follow(detector, angles="pv:T:Angles")
        with pytest.raises(ConnectionFailed, match="T:None has not answered"):
            follow(detector, projections="T:None")


def test_numbers_and_angles_may_be_in_other_pvs(follow: Callable[..., Source]) -> None:
    script = (
        SCAN.split("post(np.full((4, 6), 99", maxsplit=1)[0]
        + """
from p4p.nt import NTScalar
count = SharedPV(nt=NTScalar("i"), initial=6)
angles = SharedPV(nt=NTScalar("ad"), initial=np.arange(20.0) * 7)
more = Server(providers=[{"T:Count": count, "T:Angles": angles}])
post(np.full((4, 6), 99, "u2"), 0)
tell(ready=True)
wait()
scan()
"""
    )
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector, projections="T:Count", angles="pv:T:Angles", angle_attribute=None)
        detector.go_on()
        frames = [frame for frame in source.frames() if frame.kind is P]
    np.testing.assert_allclose(np.degrees([frame.angle_rad for frame in frames]), np.arange(6) * 7)


def test_options_that_a_detector_needs_are_asked_for() -> None:
    for options, words in (
        ({}, "--projections NUMBER"),
        ({"projections": "0"}, "at least 1"),
        ({"projections": "5", "attributes": "none"}, "--flat-value and --dark-value are needed"),
        ({"projections": "5", "repeat": 2}, "a detector has no use for --repeat"),
        ({"projections": "5", "dataset": "x"}, "a detector has no use for --dataset"),
    ):
        with pytest.raises(InputError) as caught:
            open_source("pva:T:Image", **options)
        assert words in str(caught.value)


def test_without_p4p_it_says_what_to_install(tmp_path: Path, processes: MarkedProcesses) -> None:
    (tmp_path / "p4p").mkdir()
    (tmp_path / "p4p" / "__init__.py").write_text("raise ImportError('not here')")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        finished = processes.run("daq", "pva:T:Image", "--projections", "5")
    finally:
        del os.environ["PYTHONPATH"]
    assert finished.returncode == 3
    assert finished.stderr.count("\n") == 1
    assert "pip install 'ministream[epics]'" in finished.stderr


# --- the whole stage -----------------------------------------------------------------------------------

STREAM = """
post(np.zeros((512, 512), "u2"), 0)
tell(ready=1)
wait()
for number in range(1, 301):
    kind = "FlatField" if number <= 10 else "Projection"
    post(np.full((512, 512), number, "u2"), number, FrameType=kind, Angle=0.5 * number)
    time.sleep(0.002)
tell(sent=300)
"""


def start_daq(processes: MarkedProcesses, detector: DetectorProcess, *options: str) -> tuple[Any, str]:
    daq, ready = started_daq(processes, detector, *options)
    return daq, ready["address"]


def started_daq(
    processes: MarkedProcesses, detector: DetectorProcess, *options: str
) -> tuple[Any, dict[str, Any]]:
    os.environ.update(detector.environment)
    try:
        arguments = (f"pva:{detector.name}", "--angle-attribute", "Angle", "--dark-value", "0", *options)
        daq = processes.start("daq", *arguments, "--json")
    finally:
        for name in detector.environment:
            del os.environ[name]
    ready = event(daq)
    assert ready["event"] == "ready"
    return daq, ready


def test_a_detector_streams_to_a_consumer(processes: MarkedProcesses) -> None:
    with DetectorProcess(P4P, STREAM) as detector:
        detector.told()
        daq, address = start_daq(processes, detector, "--projections", "290")
        with Inlet([address], flow="c") as inlet:
            inlet.await_description()
            detector.go_on()
            frames = consume(inlet)
        out, err = daq.communicate(timeout=30)
    assert daq.returncode == 0, err
    assert [int(frame.pixels[0, 0]) for frame in frames] == list(range(301))
    assert '"frames_lost": 0' in out.splitlines()[-1]


def test_a_slow_consumer_loses_nothing_within_the_buffer(processes: MarkedProcesses) -> None:
    with DetectorProcess(P4P, STREAM) as detector:
        detector.told()
        daq, address = start_daq(processes, detector, "--projections", "290")
        with Inlet([address], flow="c", credits=2) as inlet:
            inlet.await_description()
            detector.go_on()
            # nothing is taken until the detector has measured everything
            assert detector.told() == {"sent": 300}
            frames = consume(inlet)
        _, err = daq.communicate(timeout=30)
    assert daq.returncode == 0, err
    assert [int(frame.pixels[0, 0]) for frame in frames] == list(range(301))


def test_what_a_slow_consumer_loses_is_counted_and_told(processes: MarkedProcesses) -> None:
    with DetectorProcess(P4P, STREAM) as detector:
        detector.told()
        options = ("--projections", "290", "--buffer", "10", "--idle-timeout", "2")
        daq, address = start_daq(processes, detector, *options)
        with Inlet([address], flow="c", credits=2) as inlet:
            inlet.await_description()
            detector.go_on()
            assert detector.told() == {"sent": 300}
            frames: list[Frame] = []
            consume(inlet, frames)
        out, err = daq.communicate(timeout=30)
    # the consumer gets the end, and everything that there was room for
    numbers = [int(frame.pixels[0, 0]) for frame in frames]
    assert numbers == sorted(set(numbers))
    assert 10 < len(numbers) < 60
    assert daq.returncode == 4
    assert "were lost before they came here" in err
    assert "--buffer" in err
    events = [line for line in out.splitlines() if '"done"' in line]
    assert len(events) == 1
    done = json.loads(events[0])
    assert done["frames_dropped"] + done["frames_lost"] + len(numbers) - 1 == 300
    assert done["frames_dropped"] > 200


@pytest.mark.parametrize(
    ("options", "code"), [((), 0), (("--buffer", "10"), 4)], ids=["whole", "with losses"]
)
def test_the_scan_of_a_detector_may_be_ended_early_and_losses_before_are_told(
    processes: MarkedProcesses, options: tuple[str, ...], code: int
) -> None:
    with DetectorProcess(P4P, STREAM) as detector:
        detector.told()
        steered = ("--projections", "1000", "--steer", "tcp://127.0.0.1:0", *options)
        daq, ready = started_daq(processes, detector, *steered)
        with Inlet([ready["address"]], flow="c", credits=2) as inlet:
            inlet.await_description()
            detector.go_on()
            assert detector.told() == {"sent": 300}
            ask_to_finish(ready["steering_address"], "300 are enough")
            # what was not sent by then is not wanted
            assert 0 < len(consume(inlet)) < 300
        out, err = daq.communicate(timeout=30)
    assert daq.returncode == code, err
    (done,) = [json.loads(line) for line in out.splitlines() if '"done"' in line]
    assert done["ended_early"] == "300 are enough"
    assert (done["frames_dropped"] + done["frames_lost"] > 0) is bool(code)
    assert ("were lost before they came here" in err) is bool(code)


def test_a_signal_ends_it_while_it_waits_for_the_detector(processes: MarkedProcesses) -> None:
    with DetectorProcess(P4P, STREAM) as detector:
        detector.told()
        daq, address = start_daq(processes, detector, "--projections", "290")
        with Inlet([address], flow="c") as inlet:
            inlet.await_description()
            daq.terminate()
            with pytest.raises(ConnectionFailed, match="closed before its end"):
                consume(inlet)
        daq.communicate(timeout=20)
    assert daq.returncode == 143


def test_a_detector_has_its_own_rate_and_order(processes: MarkedProcesses) -> None:
    with DetectorProcess(P4P, STREAM) as detector:
        detector.told()
        os.environ.update(detector.environment)
        try:
            for option in (("--rate", "5"), ("--order", "golden-angle")):
                finished = processes.run("daq", "pva:T:Image", "--projections", "5", *option)
                assert finished.returncode == 3
                assert "its own rate and order" in finished.stderr
        finally:
            for name in detector.environment:
                del os.environ[name]


def test_an_update_may_bring_only_what_has_changed(follow: Callable[..., Source]) -> None:
    """As areaDetector does: dimensions and attributes stay as they were."""
    script = (
        SCAN
        + """
post(np.full((4, 6), 1, "u2"), 1, FrameType="Projection", Angle=1.0)
for number in (2, 3):
    value = Value(nt.type, {})
    value["value"] = ("ushortValue", np.full(24, number, "u2"))
    value["uniqueId"] = number
    pv.post(value)
"""
    )
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector, projections="3", dark_value=0, flat_value=9)
        detector.go_on()
        frames = [frame for frame in source.frames() if frame.kind is P]
    assert [int(frame.pixels[3, 5]) for frame in frames] == [1, 2, 3]


def test_the_present_frame_is_played_if_wished(follow: Callable[..., Source]) -> None:
    with DetectorProcess(P4P, SCAN + "scan(projections=5)") as detector:
        detector.told()
        source = follow(detector, present_frame=True, dark_value=0, flat_value=9)
        detector.go_on()
        frames = list(source.frames())
    assert [int(frame.pixels[0, 0]) for frame in frames if frame.kind is P] == [99, 6, 7, 8, 9, 10]


def test_a_scan_that_stops_too_early_is_told(follow: Callable[..., Source]) -> None:
    with DetectorProcess(P4P, SCAN + "scan(projections=4)") as detector:
        detector.told()
        source = follow(detector, idle_timeout_s=1.0)
        detector.go_on()
        frames = list(source.frames())
    assert [frame.kind for frame in frames].count(P) == 4
    with pytest.raises(ConnectionFailed, match=r"4 of 6 projections came .* none for 1 s"):
        source.check_complete()


def test_a_detector_that_does_not_number_its_images_is_warned_of(
    follow: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    script = (
        SCAN + "for _ in range(4):\n    post(np.ones((4, 6), 'u2'), 0, FrameType='Projection', Angle=1.0)\n"
    )
    with DetectorProcess(P4P, script) as detector:
        detector.told()
        source = follow(detector, projections="4", dark_value=0, flat_value=9)
        detector.go_on()
        assert sum(frame.kind is P for frame in source.frames()) == 4
    assert [record.message for record in caplog.records if "cannot be told" in record.message] == [
        "pva:T:Image gives the number 0 to more than one image: what it loses cannot be told"
    ]


def test_the_detector_of_another_project_is_followed_at_its_rate(follow: Callable[..., Source]) -> None:
    """pvapy's simulated areaDetector: 100 images of noise a second, numbered, without attributes."""
    environment = loopback()
    command = shutil.which("pvapy-ad-sim-server", path=str(Path(sys.executable).parent))
    assert command is not None
    arguments = [
        "-cn",
        "T:Image",
        "-nx",
        "320",
        "-ny",
        "240",
        "-dt",
        "uint16",
        "-fps",
        "100",
        "-nf",
        "20",
        "-rt",
        "4",
        "-std",
        "2",
        "-shd",
        "1",
        "-dc",
    ]
    server = subprocess.Popen(
        [command, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        detector = SimpleNamespace(name="T:Image", environment=environment)
        source = follow(
            detector, projections="200", attributes="none", angles="0:180", flat_value=60_000, dark_value=0
        )
        frames = list(source.frames())
    finally:
        server.kill()
        server.wait()
    assert len(frames) == 202
    assert {frame.pixels.shape for frame in frames} == {(240, 320)}
    assert {frame.pixels.dtype.name for frame in frames} == {"uint16"}
    assert source.counts["frames_lost"] == source.counts["frames_dropped"] == 0
    source.check_complete()


def test_the_mini_apps_detector_mode_serves_its_distributors(processes: MarkedProcesses) -> None:
    script = """
post(np.zeros((4, 6), "u1"), 0)
tell(ready=1)
wait()
kinds = ["/exchange/data_white"] * 2 + ["/exchange/data_dark"] * 2 + ["/exchange/data"] * 5
for number, kind in enumerate(kinds, 1):
    post(np.full((4, 6), number, "u1"), number, SaveDest=kind, ArrayCounter=number, SampleRotary=0.5 * number)
"""
    local = ("--publisher_addr", "tcp://127.0.0.1:0", "--synch_addr", "tcp://127.0.0.1:0")
    with DetectorProcess(PVAPY, script) as detector:
        detector.told()
        os.environ.update(detector.environment)
        try:
            daq = processes.start(
                *("daq", "--mode", "0", "--image_pv", detector.name, "--projections", "5", *local, "--json")
            )
        finally:
            for name in detector.environment:
                del os.environ[name]
        ready = event(daq)
        with Distributor(ready["publish_address"], ready["synch_address"]) as distributor:
            distributor.synchronise()
            detector.go_on()
            images = distributor.images()
        _, err = daq.communicate(timeout=30)
    assert daq.returncode == 0, err
    assert [image.itype for image in images] == [WHITE_RESET, WHITE, DARK_RESET, DARK] + [PROJECTION] * 5
    assert [int(image.pixels("u1")[0, 0]) for image in images] == list(range(1, 10))
    assert [image.rotation for image in images[4:]] == pytest.approx([2.5, 3.0, 3.5, 4.0, 4.5])
