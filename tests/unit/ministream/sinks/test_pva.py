"""Slices as EPICS images, looked at by pvapy: another implementation, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ministream.errors import InputError
from ministream.sinks import SliceServer
from support.detectors import loopback

PVAPY = """
import sys, json, time, pvaccess as pva
channel = pva.Channel(sys.argv[1])
choice = pva.Channel(sys.argv[1] + ":Slice", pva.PVA)
def shown(image):
    image = image if isinstance(image, dict) else image.toDict()
    value = [entry for entry in image["value"]][0]
    pixels = value[next(iter(value))]
    return dict(
        uniqueId=image["uniqueId"],
        dimensions=[one["size"] for one in image["dimension"]],
        attributes={one["name"]: one["value"][0]["value"] if isinstance(one["value"], tuple) else one["value"]
                    for one in image["attribute"]},
        kind=next(iter(value)), first=float(pixels[0]), last=float(pixels[-1]), second=float(pixels[1]),
        stamp=image["timeStamp"]["secondsPastEpoch"],
    )
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "get":
        print(json.dumps(shown(channel.get("field()"))), flush=True)
    elif word == "put":
        choice.put(int(rest))
        print(json.dumps(choice.get().getPyObject()), flush=True)
    elif word == "slow":
        seen = []
        def take(image):
            seen.append(image["uniqueId"])
            time.sleep(0.2)
        channel.subscribe("slow", take)
        channel.startMonitor("field()")
        print("true", flush=True)
    elif word == "seen":
        print(json.dumps(seen), flush=True)
"""


class Viewer:
    """A client by pvapy."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PVAPY, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    def ask(self, question: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SliceServer]:
    for name, value in loopback().items():
        monkeypatch.setenv(name, value)
    made = SliceServer("T:Recon", interval_s=0)
    yield made
    made.close()


@pytest.fixture
def viewer(server: SliceServer) -> Iterator[Viewer]:
    made = Viewer("T:Recon")
    yield made
    made.close()


def volumes(value: float) -> list[np.ndarray]:
    """Two blocks of slices 10 to 11 and 12 to 14, 4 rows of 6 columns; a slice's last pixel is its number."""
    made = np.full((5, 4, 6), value, np.float32)
    made[:, 0, 1] = -value
    made[:, -1, -1] = np.arange(10, 15)
    return [made[:2], made[2:]]


def offer(server: SliceServer, value: float, **options: Any) -> None:
    server.offer(volumes(value), slice_begin=10, projections=[int(value), 1], rotation_center=2.75, **options)


def test_a_client_gets_the_slice_with_its_attributes(server: SliceServer, viewer: Viewer) -> None:
    offer(server, 7)
    offer(server, 8)
    image = viewer.ask("get")
    assert image["uniqueId"] == 2
    # x first
    assert image["dimensions"] == [6, 4]
    assert image["kind"] == "floatValue"
    assert (image["first"], image["second"], image["last"]) == (8, -8, 12)
    assert image["attributes"] == {
        "SliceIndex": 12,
        "Projections": 1,
        "RotationCenter": 2.75,
        "SliceBegin": 10,
        "SliceCount": 5,
        "ColorMode": 0,  # monochrome, by p4p
    }
    assert abs(image["stamp"] - time.time()) < 60


def test_a_client_chooses_the_slice(server: SliceServer, viewer: Viewer) -> None:
    offer(server, 7)
    assert viewer.ask("put 11") == 11
    offer(server, 8)
    image = viewer.ask("get")
    assert (image["last"], image["attributes"]["SliceIndex"], image["attributes"]["Projections"]) == (
        11,
        11,
        8,
    )
    # another worker has it: the middle one of these is shown
    assert viewer.ask("put 3") == 3
    offer(server, 9)
    assert viewer.ask("get")["attributes"]["SliceIndex"] == 12


def test_images_are_posted_no_more_often_than_asked(server: SliceServer, viewer: Viewer) -> None:
    server._interval_s = 1000
    for _ in range(5):
        offer(server, 1)
    assert viewer.ask("get")["uniqueId"] == 1
    offer(server, 2, now=True)
    assert viewer.ask("get")["uniqueId"] == 2


def test_a_slow_client_stops_nobody_and_sees_the_newest(server: SliceServer, viewer: Viewer) -> None:
    offer(server, 1)
    assert viewer.ask("slow") is True
    large = [np.zeros((1, 1024, 1024), np.float32)]
    began = time.monotonic()
    for count in range(100):
        server.offer(large, slice_begin=0, projections=[count], rotation_center=0.0)
    # the client takes five a second
    assert time.monotonic() - began < 10
    give_up_at = time.monotonic() + 30
    while not (seen := viewer.ask("seen")) or seen[-1] != 101:
        assert time.monotonic() < give_up_at, seen
    assert len(seen) < 100
    assert seen == sorted(seen)


@pytest.mark.parametrize("name", ["", "two words"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no name of a PV"):
        SliceServer(name)
