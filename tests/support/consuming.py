"""A DAQ's consumer in the test, and what the DAQ's process tells."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from ministream.frames import Frame, ScanDescription
from ministream.stages.steering import ENDED_EARLY
from ministream.transport import Ended, Inlet, Message, Notice
from ministream.wire import decode


def event(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what it tells next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"it has ended: {process.communicate()[1]}")
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def consume(inlet: Inlet, frames: list[Frame] | None = None) -> list[Frame]:
    """Receive to the end, into `frames` if they are wanted also when there is none."""
    frames = [] if frames is None else frames
    pixel_type = ScanDescription.from_mapping(inlet.await_description()).pixel_type
    while not isinstance(item := inlet.receive(20), Ended):
        if isinstance(item, Notice) and item.message["kind"] == ENDED_EARLY:
            continue
        assert isinstance(item, Message)
        frames.append(decode(item.payload, pixel_type))
        inlet.acknowledge(item.sequence)
    return frames
