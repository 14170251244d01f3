"""Workers, distributors, networks that go while a scan streams: every projection counts once in every slice.

The proof is the volume: it is that of an undisturbed reconstruction, bit for bit, in which every projection
was taken in once and in order. A projection that is missing, doubled or in the wrong slices changes it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.delay_relay import DelayRelay
from support.processes import MarkedProcesses
from support.scan_process import Scan, a_moment
from support.stage_process import WAIT_S, Stage
from support.undisturbed import ROWS, SCAN, undisturbed_volume

# a scan at full rate is over before anything can happen to it, unless its path is long and its credits few
LONG_PATH_S = 0.04
FEW_CREDITS = ("--credits", "8")


@pytest.fixture(scope="module")
def undisturbed() -> np.ndarray:
    return undisturbed_volume()


@pytest.fixture
def scan(processes: MarkedProcesses, tmp_path: Path) -> Callable[..., Scan]:
    return lambda rate=60.0: Scan(processes, tmp_path, rate=rate)


def test_a_killed_workers_slices_go_to_the_other_with_their_history(
    scan: Callable[..., Scan], undisturbed: np.ndarray
) -> None:
    it = scan()
    it.distribute(2)
    it.worker()
    victim = it.worker()
    it.until_received(a_moment(1))
    victim.process.kill()
    received = it.done(undisturbed)
    assert (received["workers_joined"], received["workers_lost"]) == (2, 1)
    assert [part["slice_count"] for part in received["parts"]] == [ROWS]
    it.end_of_workers([victim])
    assert "has gone: it was away for more than 1.5 s" in it.distributor.log


def test_a_new_worker_takes_a_killed_ones_place(scan: Callable[..., Scan], undisturbed: np.ndarray) -> None:
    it = scan()
    it.distribute(2, "--worker-timeout", "60")
    it.worker()
    victim = it.worker()
    it.until_received(a_moment(2))
    victim.process.kill()
    it.worker()
    received = it.done(undisturbed)
    assert (received["workers_joined"], received["workers_lost"]) == (3, 1)
    assert [part["slice_count"] for part in received["parts"]] == [ROWS // 2] * 2
    it.end_of_workers([victim])


def test_a_worker_that_is_killed_while_it_writes_is_replaced(
    scan: Callable[..., Scan], undisturbed: np.ndarray, tmp_path: Path
) -> None:
    it = scan(0)
    it.distribute(1)
    victim = it.worker(refine=100_000)
    # the DAQ ends when everything is acknowledged: the worker refines, for a very long time
    it.daq.until("done")
    victim.process.kill()
    it.worker()
    received = it.done(undisturbed)
    assert [part["slice_count"] for part in received["parts"]] == [ROWS]
    it.end_of_workers([victim])


def test_a_worker_that_comes_late_gets_its_share(scan: Callable[..., Scan], undisturbed: np.ndarray) -> None:
    it = scan(40)
    it.distribute(1)
    it.worker()
    it.until_received(30)
    it.worker()
    received = it.done(undisturbed)
    assert (received["workers_joined"], received["workers_lost"]) == (2, 0)
    assert [part["slice_count"] for part in received["parts"]] == [ROWS // 2] * 2
    it.end_of_workers([])


def test_a_worker_that_is_told_to_stop_leaves_its_slices_to_the_others(
    scan: Callable[..., Scan], undisturbed: np.ndarray
) -> None:
    it = scan()
    it.distribute(3)
    for _ in range(3):
        it.worker()
    it.until_received(a_moment(3))
    it.workers[1].process.send_signal(signal.SIGTERM)
    received = it.done(undisturbed)
    assert received["workers_lost"] == 1
    assert [part["slice_count"] for part in received["parts"]] == [ROWS // 2] * 2
    assert it.workers[1].end() == 128 + signal.SIGTERM


@pytest.mark.parametrize("rate", [60.0, 0.0], ids=["at-a-rate", "at-full-rate"])
def test_a_killed_distributor_goes_on_where_it_was(
    scan: Callable[..., Scan], undisturbed: np.ndarray, rate: float
) -> None:
    it = scan(rate)
    with DelayRelay(it.daq_address, delay_s=LONG_PATH_S) as relay:
        it.distribute(2, *FEW_CREDITS, daq=relay.address)
        for _ in range(2):
            it.worker()
        for seed in (4, 5):
            it.until_received(a_moment(seed) // 2)
            it.distributor.process.kill()
            it.distributor.end()
            it.distribute(2, *FEW_CREDITS, daq=relay.address)
        received = it.done(undisturbed)
    # both have gone on with the slices that they had
    assert [part["slice_count"] for part in received["parts"]] == [ROWS // 2] * 2
    assert received["workers_lost"] == 0
    it.end_of_workers([])
    assert all("joining again with the slices that are here" in worker.log for worker in it.workers)


def test_worker_and_distributor_killed_together(scan: Callable[..., Scan], undisturbed: np.ndarray) -> None:
    it = scan()
    it.distribute(2)
    it.worker()
    victim = it.worker()
    it.until_received(a_moment(6))
    victim.process.kill()
    it.distributor.process.kill()
    it.distributor.end()
    it.distribute(2)
    it.done(undisturbed)
    it.end_of_workers([victim])


def test_after_the_daq_has_ended_distributor_and_worker_can_still_be_replaced(
    scan: Callable[..., Scan], undisturbed: np.ndarray
) -> None:
    it = scan(0)
    it.distribute(1)
    victim = it.worker(refine=100_000)
    it.daq.until("done")
    assert it.daq.end() == 0
    it.distributor.process.kill()
    victim.process.kill()
    it.distributor.end()
    it.distribute(1, "--connect-timeout", "1")
    it.worker()
    it.done(undisturbed)
    assert "everything it had to send is here" in it.distributor.log
    it.end_of_workers([victim])


@pytest.mark.parametrize("leg", ["daq", "workers"])
def test_a_network_that_carries_nothing_for_longer_than_silence_is_borne(
    scan: Callable[..., Scan], undisturbed: np.ndarray, leg: str
) -> None:
    """Both ends give their connections up after 10 s of silence, and dial in vain until it is over."""
    it = scan(0 if leg == "daq" else 20)
    with (
        DelayRelay(it.daq_address, delay_s=LONG_PATH_S) as to_daq,
        DelayRelay(None) as to_distributor,
    ):
        it.distribute(2, *FEW_CREDITS, daq=to_daq.address)
        to_distributor.target = it.listen
        for _ in range(2):
            it.worker(distributor=to_distributor.address)
        relay = to_daq if leg == "daq" else to_distributor
        it.until_received(20)
        relay.pause()
        accepted, give_up_at = relay.accepted, time.monotonic() + WAIT_S
        # who dials again has noticed
        while relay.accepted == accepted:
            assert time.monotonic() < give_up_at
            time.sleep(0.05)  # the interval of a poll
        relay.cut()
        relay.resume()
        received = it.done(undisturbed)
    assert received["workers_lost"] == 0
    it.end_of_workers([])


def test_a_state_directory_of_another_scan_is_refused(
    scan: Callable[..., Scan], processes: MarkedProcesses, tmp_path: Path
) -> None:
    it = scan()
    it.distribute(1)
    it.worker()
    it.until_received(10)
    it.distributor.process.kill()
    it.distributor.end()
    it.daq.process.kill()
    other = Stage(processes, "daq", SCAN)
    it.distribute(1, daq=other.until("ready")["address"])
    assert it.distributor.end() == 3
    assert "another DAQ had sent" in it.distributor.log
