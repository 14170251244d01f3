"""A worker that runs out of descriptors pauses, and looks for more in peace."""

from __future__ import annotations

import socket
from typing import Any

from scistream.dataserver.native.balance import Balance
from scistream.dataserver.native.session import Session
from scistream.dataserver.native.worker import (
    DESCRIPTORS_IN_RESERVE,
    DESCRIPTORS_PER_CONNECTION,
    Worker,
    WorkerOptions,
)
from support.relays import listening

OPTIONS = WorkerOptions(
    congestion_lan=None,
    congestion_wan=None,
    wan_buffer_bytes=None,
    dscp=None,
    mptcp=False,
    peer_timeout_s=60.0,
    tls_engine="openssl",
)


def _body(key: int, **values: Any) -> dict[str, Any]:
    common = {"key": key, "slot": key, "uid": f"session-{key}", "channels": 1, "tls": None, "rate_mbps": 0}
    return {**common, "wan_leg": None, "waits": False, "dials": [], **values}


def test_who_uses_the_room_up_on_resuming_lets_nobody_else_accept() -> None:
    balance, (control, other_end) = Balance(1), socket.socketpair()
    worker = Worker(0, control, balance, OPTIONS, OPTIONS.long_path())
    with listening() as peer, listening() as accepting:
        peer_address = [[socket.AF_INET, peer.getsockname()]]
        dialling = Session(worker, _body(1, targets=[peer_address], dials=[peer_address]), [])
        listener = accepting.dup()
        waiting = Session(worker, _body(2, targets=[peer_address]), [listener])
        worker._sessions = {1: dialling, 2: waiting}
        # for one connection that is kept ready, and no more
        worker.descriptors = DESCRIPTORS_IN_RESERVE + DESCRIPTORS_PER_CONNECTION
        worker.pause_accepting()
        look_at = worker._resume.next_due()
        worker.pause_accepting()
        assert worker._resume.next_due() == look_at, "who asks again and again does not put it off"
        worker._try_to_resume()
        assert worker.paused
        assert not waiting.channels[0]._accepting, "else each new connection would wake it for nothing"
        worker.descriptors += 100
        worker._try_to_resume()
        assert not worker.paused
        assert waiting.channels[0]._accepting
        worker._stop(1)
        worker._stop(2)
    worker.loop.close()
    balance.close()
    control.close()
    other_end.close()
