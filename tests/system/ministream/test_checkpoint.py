"""Workers that are killed and started again with their checkpoint: they go on, and get only what is missing.

The proof is the volume, as in test_losses: it is that of an undisturbed reconstruction, bit for bit.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.processes import MarkedProcesses
from support.scan_process import Scan, a_moment
from support.small_disk import fill, small_disk
from support.stage_process import Stage
from support.undisturbed import PROJECTIONS, ROWS, undisturbed_volume

REFINE = 300


@pytest.fixture(scope="module")
def undisturbed() -> np.ndarray:
    return undisturbed_volume()


@pytest.fixture
def scan(processes: MarkedProcesses, tmp_path: Path) -> Callable[..., Scan]:
    return lambda rate=60.0: Scan(processes, tmp_path, rate=rate)


def keeping(folder: Path, every_s: float = 0) -> list[str]:
    return ["--checkpoint", str(folder), "--checkpoint-every", f"{every_s:g}"]


def kill(stage: Stage) -> None:
    stage.process.kill()
    assert stage.end() == -signal.SIGKILL


def test_it_takes_its_place_again_and_gets_only_what_is_missing(
    scan: Callable[..., Scan], undisturbed: np.ndarray, tmp_path: Path
) -> None:
    it = scan()
    it.distribute(2, "--worker-timeout", "60")
    it.worker()
    victim = it.worker(*keeping(tmp_path / "kept"))
    it.until_received(a_moment(11))
    kill(victim)
    again = it.worker(*keeping(tmp_path / "kept"))
    there = again.until("resumed")
    assert there["slice_count"] == ROWS // 2
    assert there["projections"] > 0
    received = it.done(undisturbed)
    assert again.until("done")["projections_taken"] == PROJECTIONS - there["projections"]
    assert (received["workers_joined"], received["workers_lost"]) == (3, 1)
    assert [part["slice_count"] for part in received["parts"]] == [ROWS // 2] * 2
    it.end_of_workers([victim])
    assert "was started in its place, with its checkpoint" in it.distributor.log
    # it is not needed any more
    assert not (tmp_path / "kept").exists()


def test_when_others_have_its_slices_they_are_shared_out_again(
    scan: Callable[..., Scan], undisturbed: np.ndarray, tmp_path: Path
) -> None:
    it = scan(40)
    it.distribute(2)
    other = it.worker()
    victim = it.worker(*keeping(tmp_path / "kept"))
    it.until_received(50)
    # there is time for what follows
    it.daq.process.send_signal(signal.SIGSTOP)
    kill(victim)
    while other.until("progress")["slice_count"] < ROWS:
        pass
    again = it.worker(*keeping(tmp_path / "kept"))
    there = again.until("resumed")["projections"]
    it.daq.process.send_signal(signal.SIGCONT)
    received = it.done(undisturbed)
    assert again.until("done")["projections_taken"] == PROJECTIONS - there
    assert [part["slice_count"] for part in received["parts"]] == [ROWS // 2] * 2
    it.end_of_workers([victim])


@pytest.mark.parametrize("first", ["distributor", "worker"])
def test_distributor_and_worker_are_both_started_again(
    scan: Callable[..., Scan], undisturbed: np.ndarray, tmp_path: Path, first: str
) -> None:
    it = scan()
    it.distribute(1)
    victim = it.worker(*keeping(tmp_path / "kept"))
    it.until_received(a_moment(12))
    kill(victim)
    kill(it.distributor)
    if first == "distributor":
        it.distribute(1)
    again = it.worker(*keeping(tmp_path / "kept"))
    there = again.until("resumed")["projections"]
    if first == "worker":
        it.distribute(1)
    it.done(undisturbed)
    assert again.until("done")["projections_taken"] == PROJECTIONS - there
    it.end_of_workers([victim])


def test_passes_over_all_views_go_on_where_they_were(scan: Callable[..., Scan], tmp_path: Path) -> None:
    it = scan(0)
    it.distribute(1)
    victim = it.worker(*keeping(tmp_path / "kept"), refine=REFINE)
    index = tmp_path / "kept" / "checkpoint.json"
    it.daq.until("done")

    def passes() -> int:
        return int(json.loads(index.read_text())["parts"][0]["values"]["passes"])

    it.processes.wait_until(lambda: passes() >= 5)
    kill(victim)
    assert passes() < REFINE
    again = it.worker(*keeping(tmp_path / "kept"), refine=REFINE)
    assert again.until("resumed")["projections"] == PROJECTIONS
    it.done(undisturbed_volume(REFINE))
    assert again.until("done")["projections_taken"] == 0
    it.end_of_workers([victim])


def test_a_worker_that_is_told_to_stop_goes_on_later(
    scan: Callable[..., Scan], undisturbed: np.ndarray, tmp_path: Path
) -> None:
    it = scan()
    it.distribute(1)
    stopped = it.worker(*keeping(tmp_path / "kept", every_s=1000))
    it.until_received(a_moment(13))
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.end() == 128 + signal.SIGTERM
    again = it.worker(*keeping(tmp_path / "kept", every_s=1000))
    assert again.until("resumed")["projections"] > 0
    it.done(undisturbed)
    assert again.end() == 0


def damage(folder: Path) -> None:
    number = json.loads((folder / "checkpoint.json").read_text())["number"]
    path = folder / f"state-{number}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    index = folder / "checkpoint.json"
    index.write_bytes(index.read_bytes()[:100])


@pytest.mark.parametrize("harm", [damage, cut])
def test_a_damaged_checkpoint_is_told_and_its_slices_begin_anew(
    scan: Callable[..., Scan], undisturbed: np.ndarray, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    it = scan()
    it.distribute(1)
    victim = it.worker(*keeping(tmp_path / "kept"))
    it.until_received(60)
    kill(victim)
    harm(tmp_path / "kept")
    again = it.worker(*keeping(tmp_path / "kept"))
    it.done(undisturbed)
    done = again.until("done")
    assert again.end() == 0
    assert done["projections_taken"] == PROJECTIONS
    assert "cannot be used" in again.log
    assert not any(event["event"] == "resumed" for event in again.events)


def test_a_checkpoint_of_another_scan_is_told_and_replaced(
    scan: Callable[..., Scan], undisturbed: np.ndarray, tmp_path: Path
) -> None:
    earlier = scan()
    earlier.distribute(1)
    victim = earlier.worker(*keeping(tmp_path / "kept"))
    earlier.until_received(60)
    for stage in (victim, earlier.distributor, earlier.daq):
        kill(stage)
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    it = scan()
    it.distribute(1)
    again = it.worker(*keeping(tmp_path / "kept"))
    it.done(undisturbed)
    assert again.end() == 0
    assert "what is here is of another scan" in again.log


def test_a_full_disk_is_told_and_costs_only_the_checkpoint(
    scan: Callable[..., Scan], undisturbed: np.ndarray, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        it = scan()
        it.distribute(1)
        worker = it.worker(*keeping(disk / "kept"))
        it.until_received(40)
        fill(disk)
        it.done(undisturbed)
        assert worker.end() == 0
        assert worker.log.count("no checkpoint, and reconstruction goes on") == 1
        assert "No space left on device; free some space" in worker.log


def test_two_workers_do_not_share_a_folder(scan: Callable[..., Scan], tmp_path: Path) -> None:
    it = scan()
    it.distribute(1)
    it.worker(*keeping(tmp_path / "kept")).until("ready")
    second = it.worker(*keeping(tmp_path / "kept"))
    assert second.end() == 5
    assert "is in use by another worker" in second.log


def test_other_options_are_refused(scan: Callable[..., Scan], tmp_path: Path) -> None:
    it = scan()
    it.distribute(1)
    victim = it.worker(*keeping(tmp_path / "kept"))
    it.until_received(40)
    kill(victim)
    again = it.worker(*keeping(tmp_path / "kept"), "--window", "16")
    assert again.end() == 3
    assert "was made with other options: window 32" in again.log
