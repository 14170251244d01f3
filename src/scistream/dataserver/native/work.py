"""What native workers have in common: the options of all sessions, and how they share connections."""

from __future__ import annotations

import resource
import socket
from collections.abc import Mapping
from typing import Any

from scistream.dataserver.native.balance import Balance
from scistream.dataserver.native.tls import choose_engine
from scistream.dataserver.native.worker import (
    DESCRIPTORS_PER_CONNECTION,
    WorkerOptions,
    least_descriptors,
    run_worker,
)
from scistream.dataserver.tree.work import Work
from scistream.errors import ResourceExhausted

RECOMMENDED_DESCRIPTORS = 65536


class NativeWork(Work):
    """Relaying, by as many workers as wanted.

    Parameters
    ----------
    settings : mapping
        Those of `NativeBackend`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self._workers = int(self._settings.pop("workers"))
        self._balance = Balance(self._workers)

    @property
    def workers(self) -> int:
        """How many there are."""
        return self._workers

    def prepare(self) -> None:
        """See what the system permits, and choose the TLS engine."""
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors < least_descriptors(listeners=1):
            raise ResourceExhausted(
                f"{descriptors} open files are too few: start with 'ulimit -n {RECOMMENDED_DESCRIPTORS}', or "
                f"{least_descriptors(listeners=1)} at least (a connection may take "
                f"{DESCRIPTORS_PER_CONNECTION})"
            )
        engine = choose_engine(self._settings.pop("tls_engine"))
        self._options = WorkerOptions(**self._settings, tls_engine=engine).permitted()
        self._long_path = self._options.long_path()

    def run(self, index: int, control: socket.socket) -> None:
        """Be worker `index`."""
        run_worker(index, control, self._balance, self._options, self._long_path)

    def forget(self, slot: int, index: int) -> None:
        """Let others know that its connections are gone."""
        self._balance.forget(slot, index)

    def close(self) -> None:
        """Close what workers share."""
        self._balance.close()
