"""The main job from every kind of source, and ended early by its own quality stage."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from ministream.frames import Frame, FrameKind
from ministream.sources import open_source
from support.detectors import P4P, DetectorProcess
from support.processes import MarkedProcesses, verdict_of

SCAN = "phantom:columns=64,rows=4,projections=48,flats=2,darks=2,center_offset=0"
CENTER = ("--center", "31.5", "--stripes", "none")


@pytest.fixture(scope="module")
def frames() -> dict[FrameKind, list[Frame]]:
    found: dict[FrameKind, list[Frame]] = {kind: [] for kind in FrameKind}
    with open_source(SCAN) as source:
        for frame in source.frames():
            found[frame.kind].append(frame)
    return found


@pytest.fixture(scope="module")
def undisturbed(frames: dict[FrameKind, list[Frame]], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The volume of the same frames, played by the phantom."""
    out = tmp_path_factory.mktemp("run")
    arguments = ("run", SCAN, "--rate", "0", "--order", "as-measured", *CENTER, "--json")
    verdict_of(MarkedProcesses().run(*arguments, "--out", out))
    return volume(out)


def volume(out: Path) -> np.ndarray:
    with h5py.File(out / "volume.h5") as file:
        return np.asarray(file["exchange/data"])


def stack(frames: dict[FrameKind, list[Frame]], kind: FrameKind) -> np.ndarray:
    return np.array([frame.pixels for frame in frames[kind]])


def test_any_stack_of_an_hdf5_file_and_some_rows_of_it(
    processes: MarkedProcesses, tmp_path: Path, frames: dict[FrameKind, list[Frame]], undisturbed: np.ndarray
) -> None:
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["raw/images"] = stack(frames, FrameKind.PROJECTION)
        file["raw/open"] = stack(frames, FrameKind.FLAT_FIELD)
        file["raw/shut"] = stack(frames, FrameKind.DARK_FIELD)
    names = ("--dataset", "raw/images", "--flats", "raw/open", "--darks", "raw/shut")
    finished = processes.run(
        *("run", tmp_path / "raw.h5", *names, "--angles", "0:180", "--rows", "1:3", "--rate", "0", "--json"),
        *("--order", "as-measured", *CENTER, "--out", tmp_path / "out"),
    )
    assert verdict_of(finished)["complete"] is True
    np.testing.assert_allclose(volume(tmp_path / "out"), undisturbed[1:3], atol=1e-5)

    finished = processes.run(
        "run", tmp_path / "raw.h5", "--dataset", "raw/nothing", "--out", tmp_path / "out"
    )
    assert finished.returncode == 3
    assert "there is no raw/nothing; with 3 axes there are raw/images (48, 4, 64)" in finished.stderr


def test_a_folder_of_tiff_files(
    processes: MarkedProcesses, tmp_path: Path, frames: dict[FrameKind, list[Frame]], undisturbed: np.ndarray
) -> None:
    for folder, kind in (
        ("", FrameKind.PROJECTION),
        ("flats", FrameKind.FLAT_FIELD),
        ("darks", FrameKind.DARK_FIELD),
    ):
        (tmp_path / "scan" / folder).mkdir(exist_ok=True, parents=True)
        for number, frame in enumerate(frames[kind]):
            tifffile.imwrite(tmp_path / "scan" / folder / f"image_{number}.tif", frame.pixels)
    finished = processes.run(
        *("run", tmp_path / "scan", "--angles", "0:180", "--rate", "0", "--json"),
        *("--order", "as-measured", *CENTER, "--out", tmp_path / "out"),
    )
    assert verdict_of(finished)["complete"] is True
    np.testing.assert_allclose(volume(tmp_path / "out"), undisturbed, atol=1e-5)


DETECTOR = """
frames = np.load("{path}")
number = 0
post(frames["Projection"][0], number, FrameType="Projection", Angle=0.0)
tell(ready=True)
wait()
for kind in ("DarkField", "FlatField", "Projection"):
    for index, pixels in enumerate(frames[kind]):
        number += 1
        if (kind, index) != {left_out}:
            post(pixels, number, FrameType=kind, Angle=180.0 * index / 48)
        time.sleep(0.01)
"""
NAMES = {
    FrameKind.DARK_FIELD: "DarkField",
    FrameKind.FLAT_FIELD: "FlatField",
    FrameKind.PROJECTION: "Projection",
}


class DetectorRun:
    """A run that follows a detector; the detector begins when the run streams."""

    def __init__(
        self, processes: MarkedProcesses, detector: DetectorProcess, out: Path, *options: str
    ) -> None:
        self.process = processes.start(
            *("run", f"pva:{detector.name}", "--projections", "48", "--angle-attribute", "Angle"),
            *("--idle-timeout", "3", "--json", *CENTER, *options, "--out", out),
        )
        self.log: list[str] = []
        self.streaming = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("streaming"):
                self.streaming.set()

    def end(self) -> str:
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        self.process.wait(60)
        self._reader.join(10)
        return out


@pytest.fixture
def detector_of(tmp_path: Path, frames: dict[FrameKind, list[Frame]], monkeypatch: pytest.MonkeyPatch) -> Any:
    np.savez(tmp_path / "frames.npz", **{NAMES[kind]: stack(frames, kind) for kind in FrameKind})

    def made(left_out: tuple[str, int] | None) -> DetectorProcess:
        detector = DetectorProcess(P4P, DETECTOR.format(path=tmp_path / "frames.npz", left_out=left_out))
        for name, value in detector.environment.items():
            monkeypatch.setenv(name, value)
        return detector

    return made


def test_a_detector_at_its_own_rate(
    processes: MarkedProcesses, tmp_path: Path, detector_of: Any, undisturbed: np.ndarray
) -> None:
    with detector_of(None) as detector:
        detector.told()
        run = DetectorRun(processes, detector, tmp_path / "out")
        assert run.streaming.wait(60), run.log
        detector.go_on()
        out = run.end()
    assert run.process.returncode == 0, run.log
    assert '"complete": true' in out
    np.testing.assert_allclose(volume(tmp_path / "out"), undisturbed, atol=1e-5)


def test_frames_that_a_detector_has_lost_make_the_run_incomplete_and_keep_the_rest(
    processes: MarkedProcesses, tmp_path: Path, detector_of: Any
) -> None:
    with detector_of(("Projection", 20)) as detector:
        detector.told()
        run = DetectorRun(processes, detector, tmp_path / "out")
        assert run.streaming.wait(60), run.log
        detector.go_on()
        out = run.end()
    assert run.process.returncode == 8, run.log
    assert '"complete": false' in out
    assert "INCOMPLETE: of 48 projections 47 sent, 47 received, 47 reconstructed" in "".join(run.log)
    assert "47 of 48 projections were passed on" in out
    assert volume(tmp_path / "out").shape == (4, 64, 64)


def test_a_rate_for_a_detector_is_refused(
    processes: MarkedProcesses, tmp_path: Path, detector_of: Any
) -> None:
    with detector_of(None) as detector:
        detector.told()
        run = DetectorRun(processes, detector, tmp_path / "out", "--rate", "5")
        run.end()
    assert run.process.returncode == 3
    assert "a detector has its own rate" in "".join(run.log)


def test_a_run_ends_when_the_image_has_had_enough_and_is_complete(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    finished = processes.run(
        *("run", "phantom:columns=48,rows=2,projections=1000,photons=100000", "--order", "golden-angle"),
        *("--rate", "25", "--center", "28.8", "--steer", "--plot", tmp_path / "quality.svg", "--json"),
        *("--out", tmp_path / "out"),
    )
    verdict = verdict_of(finished)
    assert verdict["complete"] is True
    assert "projections" in verdict["ended_early"]
    assert 250 <= verdict["projections_sent"] < 1000
    assert verdict["projections_sent"] == verdict["projections_received"]
    assert verdict["projections_sent"] == verdict["projections_reconstructed"]
    assert verdict["projections_expected"] == 1000
    # an end that was asked for is nothing to warn of
    assert verdict["warnings"] == []
    last = finished.stderr.strip().splitlines()[-1]
    assert f"{verdict['projections_sent']} reconstructed of 1000, more were not needed: the image" in last
    assert "<svg" in (tmp_path / "quality.svg").read_text()
    assert os.listdir(tmp_path / "out")
