"""Enough projections are on their way for a long path: rate times round trip, on each leg, with the defaults.

A path that carries nothing for a while has a round trip as long as that: what a program still sends then is
what it has on its way. Nothing is timed.
"""

from __future__ import annotations

import time

import numpy as np

from ministream.frames import Frame, FrameKind
from ministream.transport import Inlet, Joined, Message, Outlet
from ministream.wire import timage
from support.delay_relay import DelayRelay
from support.driven_daq import Daq
from support.processes import MarkedProcesses
from support.stage_process import Stage

WAIT_S = 60.0
ROWS, COLUMNS, PROJECTIONS = 2, 640, 400
RATE_PER_S, ROUND_TRIP_S = 1000, 0.1
"""The goal of the reconstruction for projections of this size, and the path that it is to be met over."""
NEEDED = int(RATE_PER_S * ROUND_TRIP_S * 4 / 3) + 1
"""Credits return a quarter of them at a time: a third more than rate times round trip."""


def test_from_the_daq_to_the_distributor(processes: MarkedProcesses) -> None:
    daq = Daq(rows=ROWS, columns=COLUMNS, projections=PROJECTIONS)
    with daq.outlet, DelayRelay(daq.outlet.address) as relay:
        distributor = Stage(
            processes, "distribute", "--connect", relay.address, "--center", "319.5", "--stripes", "none"
        )
        with Inlet([distributor.until("ready")["address"]], flow="worker", credits=1024) as inlet:
            daq.accept()
            daq.send_fields()
            daq.send(FrameKind.PROJECTION, 30_000)
            # once this is acknowledged everybody knows how large projections are
            acknowledge(inlet, 1)
            wait_until_acknowledged(daq, inlet)
            relay.pause()
            sent = 0
            while daq.outlet.can_send(daq.flow) and sent < NEEDED:
                daq.send(FrameKind.PROJECTION, 30_000)
                sent += 1
            assert sent == NEEDED
            assert daq.outlet.outstanding(daq.flow) == NEEDED
            relay.resume()
            acknowledge(inlet, sent)
            wait_until_acknowledged(daq, inlet)
            distributor.process.terminate()
            distributor.end()


def acknowledge(inlet: Inlet, count: int) -> None:
    """Take so many projections."""
    while count:
        item = inlet.receive(WAIT_S)
        assert item is not None
        if isinstance(item, Message):
            inlet.acknowledge(item.sequence)
            count -= 1


def wait_until_acknowledged(daq: Daq, inlet: Inlet) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while daq.outlet.outstanding(daq.flow):
        assert time.monotonic() < give_up_at
        daq.poll(0.02)
        # what has been acknowledged is told now and then, by who goes on receiving
        assert not isinstance(inlet.receive(0.02), Message)


def test_from_the_distributor_to_a_worker(processes: MarkedProcesses) -> None:
    with Outlet(description={}) as outlet, DelayRelay(outlet.address) as relay:
        worker = Stage(processes, "reconstruct", "--connect", relay.address, "--algorithm", "sirt")
        flow = ""
        give_up_at = time.monotonic() + WAIT_S
        while not flow:
            assert time.monotonic() < give_up_at
            for event in outlet.poll(0.1):
                if isinstance(event, Joined):
                    flow = event.flow
        outlet.notify(
            flow,
            {
                "kind": "assignment",
                "scan": "s",
                "name": "test",
                "slices_total": ROWS,
                "columns": COLUMNS,
                "projections": PROJECTIONS,
                "rotation_center": 319.5,
                "blocks": [[0, ROWS, 0]],
            },
        )
        sent = 0

        def send() -> None:
            nonlocal sent
            pixels = np.zeros((ROWS, COLUMNS), np.float32)
            frame = Frame(sequence=sent, kind=FrameKind.PROJECTION, pixels=pixels, angle_rad=0.01 * sent)
            outlet.send(flow, timage.encode(frame))
            sent += 1

        send()
        while outlet.outstanding(flow):
            assert time.monotonic() < give_up_at
            outlet.poll(0.05)
        relay.pause()
        while outlet.can_send(flow) and sent <= NEEDED:
            send()
        assert outlet.outstanding(flow) == NEEDED
        relay.resume()
        while outlet.outstanding(flow):
            assert time.monotonic() < give_up_at
            outlet.poll(0.05)
        worker.process.terminate()
    worker.end()
