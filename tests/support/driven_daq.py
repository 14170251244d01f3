"""A DAQ whose frames the test sends, one by one, over a real connection."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.transport import Joined, Left, Outlet
from ministream.wire import timage

WAIT_S = 20.0


class Daq:
    """A DAQ's outlet; the test sends."""

    def __init__(self, **changes: Any) -> None:
        values = {
            "name": "test",
            "rows": 3,
            "columns": 40,
            "pixel_type": "uint16",
            "projections": 24,
            "flat_fields": 1,
            "dark_fields": 1,
        } | changes
        self.description = ScanDescription(**values)
        self.outlet = Outlet(description=asdict(self.description))
        self.flow = ""
        self.sequence = 0
        self.left: Left | None = None

    def accept(self) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while not self.flow:
            assert time.monotonic() < give_up_at
            for event in self.outlet.poll(0.1):
                if isinstance(event, Joined):
                    self.flow = event.flow

    def send(
        self, kind: FrameKind, pixels: np.ndarray | int, angle: float = 0.0, *, again: bool = False
    ) -> None:
        """Send a frame; wait for the credit."""
        if isinstance(pixels, int):
            pixels = np.full((self.description.rows, self.description.columns), pixels, np.uint16)
        give_up_at = time.monotonic() + WAIT_S
        while not self.outlet.can_send(self.flow):
            assert time.monotonic() < give_up_at
            self.poll(0.05)
        self.sequence -= again
        frame = Frame(sequence=self.sequence, kind=kind, pixels=pixels, angle_rad=angle)
        self.outlet.send(self.flow, timage.encode(frame))
        self.sequence += 1

    def send_fields(self) -> None:
        self.send(FrameKind.DARK_FIELD, 100)
        self.send(FrameKind.FLAT_FIELD, 60_100)

    def poll(self, timeout_s: float) -> None:
        for event in self.outlet.poll(timeout_s):
            if isinstance(event, Left):
                self.left = event

    def finish(self) -> None:
        """End the scan, and wait until everything is acknowledged."""
        self.outlet.finish(self.flow)
        self.finish_later()

    def finish_later(self) -> None:
        """Wait until everything is acknowledged; the end has been sent."""
        give_up_at = time.monotonic() + WAIT_S
        while self.left is None:
            assert time.monotonic() < give_up_at
            self.poll(0.1)
