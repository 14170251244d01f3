"""What is kept of a session: enough for a new worker, and every figure that was told."""

from __future__ import annotations

import os
from typing import Any

import pytest

from scistream.dataserver.tree.kept import MAX_NOTICES, KeptSession


def _session(channels: int = 1, **changes: Any) -> KeptSession:
    descriptors = tuple(os.open(os.devnull, os.O_RDONLY) for _ in range(channels))
    body = {
        "key": 7,
        "slot": 3,
        "uid": "one",
        "targets": ["old"],
        "dials": [],
        "tls": None,
        "rate_mbps": 5,
        "channels": channels,
        "waits": False,
        **changes,
    }
    return KeptSession(body, descriptors)


def test_figures_of_dead_workers_count_without_their_open_connections() -> None:
    session = _session(channels=2)
    session.last = {0: [[2, 3, 1, 100, 10], [1, 1, 0, 5, 5]], 1: [[1, 1, 0, 7, 7], [0, 0, 0, 0, 0]]}
    session.worker_died(0)
    session.worker_died(0)  # nothing was heard of the one in its place
    assert session.figures() == [
        [[1, 1, 0, 7, 7], [0, 0, 0, 0, 0]],
        [[0, 3, 1, 100, 10], [0, 1, 0, 5, 5]],
    ]
    session.last[0] = [[1, 1, 0, 1, 1], [0, 0, 0, 0, 0]]
    session.worker_died(0)
    assert session.lost == [[0, 4, 1, 101, 11], [0, 1, 0, 5, 5]]
    session.close()


def test_a_new_worker_is_told_the_present_targets_and_the_rate() -> None:
    session = _session()
    tls = {"leg": "target"}
    session.retarget({"operation": "retarget", "id": 9, "targets": ["new"], "dials": ["there"], "tls": tls})
    assert session.start["targets"] == ["new"]
    assert session.start["dials"] == ["there"]
    assert session.start["tls"] == {"leg": "target"}
    assert session.start["rate_mbps"] == 5
    session.close()


def test_notices_are_told_once_and_bounded() -> None:
    session = _session()
    for number in range(MAX_NOTICES + 5):
        session.notices.append(str(number))
    assert len(session.description()["notices"]) == MAX_NOTICES
    assert session.description()["notices"] == []
    session.close()


def test_a_description_has_no_secret() -> None:
    session = _session(tls={"private_key": "secret"})
    assert "secret" not in str(session.description()) + repr(session)
    session.close()


def test_closing_twice_closes_nobody_elses_descriptor() -> None:
    session = _session()
    (descriptor,) = session.descriptors
    session.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    other = os.open(os.devnull, os.O_RDONLY)
    session.close()
    os.fstat(other)
    os.close(other)
